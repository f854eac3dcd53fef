"""Which weights a product asks memory for, ahead of what it multiplies."""

from __future__ import annotations

import platform
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.job.compile.schedules import linear, panels, prefetch, tile
from bench.job.compile.schedules.tile import ceil_div
from bench.job.compile.target import CompileTarget
from tests.unit.test_weight_only import assembly

AVX512 = CompileTarget("llvm", "skylake-avx512", ("avx512f", "avx2", "fma"), 2)
AVX2 = CompileTarget("llvm", "haswell", ("avx2", "fma"), 2)
BASE = CompileTarget("llvm", "x86-64", (), 2)
FORMATS = [*panels.FORMATS.values()]
geometries = given(
    st.integers(1, 200), st.integers(1, 300), st.integers(1, 90), st.integers(1, 4),
    st.sampled_from([AVX512, AVX2, BASE]), st.sampled_from(FORMATS),
)  # fmt: skip


def of(
    m: int, n: int, k: int, group: int, target: CompileTarget, stored: panels.Format
) -> prefetch.Ahead:
    width = tile.panel_width(target)
    chosen = tile.choose(m, k, width, target.lanes, target.registers)
    return prefetch.ahead(
        *(chosen, k, stored.size),
        panels=ceil_div(n, width), group=group, row_tiles=ceil_div(m, chosen.rows),
    )  # fmt: skip


def asked(one: prefetch.Ahead, panel: int) -> list[list[int]]:
    """The elements that are asked for while the panel is passed, by the tile of rows."""
    return [
        [
            one.place(panel, turn, block, line)
            for block in range(one.steps)
            for line in range(one.lines)
        ]
        for turn in range(one.row_tiles)
    ]


@geometries
@example(64, 2304, 768, 1, AVX512, panels.FLOAT32)
@example(13, 33, 1, 1, BASE, panels.INT8)
def test_every_line_of_the_panel_after_is_asked_for(
    m: int, n: int, k: int, group: int, target: CompileTarget, stored: panels.Format
) -> None:
    one = of(m, n, k, group, target, stored)
    if one.row_tiles == 1 or one.panels <= group:
        return
    for panel in range(min(3, one.panels - group)):
        lines = {at * one.size // prefetch.LINE for turn in asked(one, panel) for at in turn}
        start = (panel + group) * one.panel * one.size
        end = start + one.panel * one.size
        assert lines >= set(range(start // prefetch.LINE, end // prefetch.LINE))


@geometries
def test_one_tile_of_rows_asks_for_what_lies_next(
    m: int, n: int, k: int, group: int, target: CompileTarget, stored: panels.Format
) -> None:
    one = of(min(m, 4), n, k, 1, target, stored)
    assert one.row_tiles == 1
    places = [at for panel in range(one.panels) for at in asked(one, panel)[0]]
    last = one.panels * one.panel - 1
    assert places == sorted(places) and places[0] == min(2**13 // one.size, last)
    lines = {at * one.size // prefetch.LINE for at in places}
    assert lines == set(range(min(lines), last * one.size // prefetch.LINE + 1))
    assert one.lines == ceil_div(one.step * one.size, prefetch.LINE)


@geometries
def test_nothing_beyond_the_weights_is_asked_for(
    m: int, n: int, k: int, group: int, target: CompileTarget, stored: panels.Format
) -> None:
    one = of(m, n, k, group, target, stored)
    for panel in (0, one.panels - 1):
        places = [at for turn in asked(one, panel) for at in turn]
        assert min(places) >= 0 and max(places) < one.panels * one.panel


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86-64")
@pytest.mark.parametrize("target", [AVX512, AVX2], ids=["avx512", "avx2"])
@pytest.mark.parametrize("stored", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize("m", [1, 64])
def test_the_code_asks_for_it(m: int, stored: panels.Format, target: CompileTarget) -> None:
    """As often as a step should, into the second-level cache, in the loop over K."""
    n, k = 640, 768
    code = assembly(linear.linear(m, n, k, bias=False, target=target, stored=stored), target.mcpu)
    got = sum(bool(re.match(r"\s+prefetcht1\b", line)) for line in code)
    one = of(m, n, k, 1, target, stored)
    assert got > 0 and got % one.lines == 0
    assert not any("prefetcht0" in line or "prefetchnta" in line for line in code)
