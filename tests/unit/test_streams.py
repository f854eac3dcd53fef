"""One row of float32 is multiplied with several panels at a time, far apart in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.job.compile.schedules import linear, panels, tile
from bench.job.compile.target import CompileTarget
from tests.unit.kernels import HOST, call, draw
from tests.unit.test_prefetch import AVX2, AVX512, SSE
from tests.unit.test_weight_only import assembly


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 1400), st.integers(1, 40), st.integers(1, 3),
    st.sampled_from([AVX512, AVX2, SSE]), st.booleans(), st.booleans(),
    st.sampled_from([None, *linear.ACTIVATIONS]),
)  # fmt: skip
@example(32 * 7 + 1, 5, 1, AVX512, True, True, None)  # as few panels as four streams may have
@example(32 * 9, 6, 1, AVX512, False, False, "gelu")  # too many for that, and too few
@example(16 * 4 - 15, 4, 1, AVX2, True, False, None)  # and two
@example(8 * 29 - 3, 8, 3, SSE, True, True, "gelu_tanh")
@example(32 * 43 - 1, 7, 2, AVX512, True, False, None)
def test_every_sum_is_what_it_is_in_one_stream(
    n: int, k: int, cores: int, target: CompileTarget, bias: bool, residual: bool,
    activation: str | None,
) -> None:  # fmt: skip
    target = replace(target, cores=cores)
    x, w, b, r = draw(1, k), draw(n, k), draw(n), draw(1, n, seed=1)
    inputs = [x, panels.pack(w, tile.panel_width(target)), *[b] * bias, *[r] * residual]

    def multiplied(target: CompileTarget) -> np.ndarray:
        kernel = linear.linear(
            1, n, k, bias=bias, target=target, activation=activation, residual=residual
        )
        return call(kernel, inputs, (1, n))

    got = multiplied(target)
    assert np.array_equal(got, multiplied(replace(target, mcpu="znver4")))
    if activation is None:
        expected = x.astype(np.float64) @ w.T + b * bias + r * residual
        assert np.abs(got - expected).max() < 1e-6 * (k + 10)


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_the_last_panel_is_of_the_last_stream(cores: int) -> None:
    """It may not be full: another stream would write beyond what there is."""
    target = replace(AVX512, cores=cores)
    found = set()
    for count in range(1, 2000):
        streams = linear._streams(1, count, panels.FLOAT32, target)
        assert (streams - 1) * tile.ceil_div(count, streams) < count
        found.add(streams)
    assert found == {1, 2, 4}


@pytest.mark.parametrize(
    ("m", "n", "cores", "mcpu", "stored", "streams"),
    [
        (1, 768, 2, "", "float32", 4),
        (1, 768, 4, "", "float32", 2),  # of 24 panels each core has three turns of two
        (1, 768, 8, "", "float32", 1),
        (1, 50257, 32, "", "float32", 4),
        (1, 48, 2, "", "float32", 1),
        (2, 768, 2, "", "float32", 1),
        (1, 768, 2, "", "int8", 1),
        (1, 768, 2, "", "bfloat16", 1),
        (1, 768, 2, "znver4", "float32", 1),
        (1, 768, 2, "sapphirerapids", "float32", 4),
    ],
)
def test_as_many_as_leave_every_core_its_turns(
    m: int, n: int, cores: int, mcpu: str, stored: str, streams: int
) -> None:
    target = replace(AVX512, cores=cores, mcpu=mcpu)
    kernel = linear.linear(
        m, n, 64, bias=False, target=target, stored=panels.FORMATS[stored]
    ).script()
    turns = tile.ceil_div(tile.ceil_div(n, 32), streams)
    assert f"in T.parallel({turns})" in kernel


@pytest.mark.parametrize("wide", [AVX512, AVX2], ids=["avx512", "avx2"])
@pytest.mark.parametrize("mcpu", ["", "znver4"])
def test_one_row_of_many_panels_asks_for_nothing(mcpu: str, wide: CompileTarget) -> None:
    kernel = linear.linear(1, 640, 768, bias=False, target=replace(wide, mcpu=mcpu))
    code = assembly(kernel, HOST.mcpu)
    assert code and not [line for line in code if "prefetch" in line or "prfm" in line]
