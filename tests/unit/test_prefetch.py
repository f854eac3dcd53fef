"""Which weights a product asks memory for, ahead of what it multiplies."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bench.job.compile import api
from bench.job.compile.api import T
from bench.job.compile.schedules import linear, panels, prefetch, tile
from bench.job.compile.schedules.tile import ceil_div
from bench.job.compile.target import CompileTarget
from tests.unit.kernels import HOST
from tests.unit.test_weight_only import assembly

# Without a name no rule for a maker's CPUs applies. What is compiled is compiled for the host's.
AVX512, AVX2, SSE = (
    CompileTarget("llvm", "", features, 2) for features in (("avx512f", "avx2"), ("avx2",), ())
)
FORMATS = [*panels.FORMATS.values()]
geometries = given(
    st.integers(1, 200), st.integers(1, 300), st.integers(1, 90), st.integers(1, 4),
    st.sampled_from([AVX512, AVX2, SSE]), st.sampled_from(FORMATS),
)  # fmt: skip


def of(
    m: int, n: int, k: int, group: int, target: CompileTarget, stored: panels.Format
) -> prefetch.Ahead:
    width = tile.panel_width(target)
    chosen = tile.choose(m, k, width, target.lanes, target.registers)
    row_tiles = ceil_div(m, chosen.rows)
    return prefetch.Ahead(chosen, k, stored.size, ceil_div(n, width), group, row_tiles, target.mcpu)


def outputs(m: int, width: int) -> int:
    """Outputs for a product of ``m`` rows that asks: one row of many panels is read in streams."""
    return 640 if m > 1 else 3 * width


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
@example(13, 33, 1, 1, SSE, panels.INT8)
def test_every_line_of_the_panel_after_is_asked_for(
    m: int, n: int, k: int, group: int, target: CompileTarget, stored: panels.Format
) -> None:
    one = of(m, n, k, group, target, stored)
    assume(one.row_tiles > 1 and one.panels > group)
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


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=["avx512", "avx2", "sse"])
@pytest.mark.parametrize(("m", "k"), [(1, 300), (64, 300), (64, 16)])
def test_the_kernel_asks_for_those(
    m: int, k: int, target: CompileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that writes over what it would ask for leaves the rest of its weights as it was."""
    width, made = tile.panel_width(target), []
    n = outputs(m, width)

    def overwrite(weights: Any, at: Any) -> None:
        place = [at // (k * width), at // width % k, at % width]
        T.buffer_store(weights, T.float32(1), place)

    def keep(*fields: Any) -> prefetch.Ahead:
        made.append(prefetch.Ahead(*fields))
        return made[-1]

    monkeypatch.setattr(prefetch, "prefetch", overwrite)
    monkeypatch.setattr(linear, "Ahead", keep)
    code = api.compile_kernel(linear.linear(m, n, k, bias=False, target=target), HOST.tvm())
    cpu = api.device("cpu")
    shapes = [(m, k), panels.packed_shape(n, k, width), (m, n)]
    tensors = [api.tensor(np.zeros(shape, np.float32), cpu) for shape in shapes]
    code(*tensors)
    (one,) = made
    wanted = {at for panel in range(one.panels) for turn in asked(one, panel) for at in turn}
    assert set(np.flatnonzero(tensors[1].numpy())) == wanted


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=["avx512", "avx2", "sse"])
@pytest.mark.parametrize("stored", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize("m", [1, 64])
def test_the_code_asks_for_it(m: int, stored: panels.Format, target: CompileTarget) -> None:
    """As often as a step should, and into the second-level cache, on x86 and on AArch64."""
    n, k = outputs(m, tile.panel_width(target)), 768
    code = assembly(linear.linear(m, n, k, bias=False, target=target, stored=stored), HOST.mcpu)
    wishes = [line.split()[:2] for line in code if re.match(r"\s+(prefetch|prfm)", line)]
    lines = of(m, n, k, 1, target, stored).lines
    assert wishes and len(wishes) % lines == 0
    assert all(
        name == "prefetcht1" or (name, kind) == ("prfm", "pldl2keep,") for name, kind in wishes
    )


@pytest.mark.parametrize("wide", [AVX512, AVX2], ids=["avx512", "avx2"])
@pytest.mark.parametrize(
    ("stored", "m", "asks"),
    [("float32", 1, False), ("float32", 6, False), ("bfloat16", 1, False), ("bfloat16", 2, True),
     ("int8", 1, True), ("float32", 64, True)],
)  # fmt: skip
def test_zen_is_not_asked_where_few_rows_are_multiplied(
    wide: CompileTarget, stored: str, m: int, asks: bool
) -> None:
    kind, zen, other = panels.FORMATS[stored], replace(wide, mcpu="znver4"), wide

    def wishes(target: CompileTarget) -> int:
        n = outputs(m, tile.panel_width(target))
        kernel = linear.linear(m, n, 768, bias=False, target=target, stored=kind)
        return sum("prefetch" in line or "prfm" in line for line in assembly(kernel, HOST.mcpu))

    assert wishes(zen) == (wishes(other) if asks else 0)
    assert wishes(other) > 0


@pytest.mark.parametrize(("m", "asks"), [(7, False), (8, True), (12, True)])
def test_eight_rows_of_float32_are_enough_for_zen(m: int, asks: bool) -> None:
    one = of(m, 640, 768, 1, replace(AVX512, mcpu="znver4"), panels.FLOAT32)
    assert one.row_tiles == 1 and (one.lines > 0) == asks
