"""How many rows of a product a tile has."""

from __future__ import annotations

import pytest

from bench.job.compile.schedules import tile


@pytest.mark.parametrize(
    ("m", "registers", "width", "rows"),
    [(12, 32, 32, 12), (13, 32, 32, 7), (24, 32, 32, 8), (100, 32, 32, 8), (64, 16, 32, 6),
     (12, 16, 16, 12), (64, 16, 16, 8)],
)  # fmt: skip
def test_a_tile_that_is_not_all_has_no_more_rows_than_a_set_of_the_cache_has_lines(
    m: int, registers: int, width: int, rows: int
) -> None:
    assert tile.choose(m, 768, width, lanes=16, registers=registers).rows == rows
