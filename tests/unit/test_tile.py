"""How many rows of a product a tile has, and how many panels it passes in a row."""

from __future__ import annotations

import pytest

from bench.job.compile.schedules import linear, tile


@pytest.mark.parametrize(
    ("m", "registers", "width", "rows"),
    [(12, 32, 32, 12), (13, 32, 32, 7), (24, 32, 32, 8), (100, 32, 32, 8), (64, 16, 32, 6),
     (12, 16, 16, 12), (64, 16, 16, 8)],
)  # fmt: skip
def test_a_tile_that_is_not_all_has_no_more_rows_than_a_set_of_the_cache_has_lines(
    m: int, registers: int, width: int, rows: int
) -> None:
    assert tile.choose(m, 768, width, lanes=16, registers=registers).rows == rows


@pytest.mark.parametrize(
    ("panels", "row_tiles", "elements", "cores", "together"),
    [
        (1571, 8, 48 * 32, 2, 21),  # 21 panels of 6 KiB are within 128 KiB
        (1571, 8, 768 * 32, 2, 1),  # one of 96 KiB
        (1571, 1, 48 * 32, 2, 1),  # nothing is read again
        (4, 8, 48 * 32, 2, 2),  # or too few turns would be left for the cores
        (4, 8, 48 * 32, 64, 1),
    ],
)
def test_panels_are_passed_together_while_they_fit_the_cache_and_all_cores_have_turns(
    panels: int, row_tiles: int, elements: int, cores: int, together: int
) -> None:
    assert linear._together(panels, row_tiles, elements, cores) == together
