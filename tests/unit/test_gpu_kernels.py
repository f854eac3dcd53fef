"""The GPU kernels without a GPU: their CUDA C run on the CPU, against NumPy in float64."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.job.compile import api, gpu, target
from bench.job.compile.schedules.gpu import attention, block
from tests.unit.cuda_on_cpu import DivergentBarrier, cuda_source, emulate, extents

SM_80 = target.cuda("sm_80")
LEAST = {"float32": 1e-5, "float16": 2e-3}  # of values that are averages of normal ones
dtypes = st.sampled_from(["float32", "float16"])


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def ran(
    kernel: Any, inputs: list[np.ndarray], shape: tuple[int, ...], dtype: str, folder: Path
) -> np.ndarray:
    """What ``kernel`` writes over NaN, the same in either order of its threads and blocks."""
    code = emulate(kernel, cuda_source(kernel, SM_80), folder)
    results = []
    for backwards in (False, True):
        out = np.full(shape, np.nan, dtype)
        code(*inputs, out, backwards=backwards)
        results.append(out)
    assert np.array_equal(results[0], results[1], equal_nan=True), (
        "the order of the threads shows: a barrier is missing"
    )
    return results[0]


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    whole: np.ndarray = powers / powers.sum(-1, keepdims=True)
    return whole


@settings(max_examples=5, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 80), st.integers(1, 3), st.integers(1, 100), st.booleans(),
    dtypes,
)  # fmt: skip
@example(2, 37, 3, 16, True, "float32")  # gpt-nano's heads, a length that is no multiple of a tile
@example(2, 37, 3, 16, True, "float16")
@example(1, 1, 1, 5, True, "float32")
@example(1, 1, 1, 5, True, "float16")
@example(1, 70, 2, 64, True, "float32")
@example(1, 70, 2, 64, True, "float16")
@example(1, 33, 1, 200, False, "float32")  # heads so wide that a tile has fewer rows
@example(1, 33, 1, 200, False, "float16")
def test_attention_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    b: int, t: int, h: int, d: int, causal: bool, dtype: str,
) -> None:  # fmt: skip
    qkv = draw(b, t, 3, h, d, dtype=dtype) * np.asarray(2, dtype)
    kernel = attention.attention(b, t, h, d, scale=d**-0.5, causal=causal, dtype=dtype)
    got = ran(kernel, [qkv], (b, t, h, d), dtype, tmp_path_factory.mktemp("example"))
    q, k, v = qkv.astype(np.float64).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
    scores = q @ k.swapaxes(-1, -2) * d**-0.5
    if causal:
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
    expected = (softmax(scores) @ v).transpose(0, 2, 1, 3)
    assert np.abs(got - expected).max() < 2 * LEAST[dtype]


def test_causal_attention_does_not_visit_what_lies_behind(tmp_path: Path) -> None:
    """Visited and masked it would do harm: no weight, not even none, times NaN is a number."""
    t, d = 70, 64
    first = attention.tile_rows(d)
    qkv = draw(1, t, 3, 1, d)
    q, k, v = qkv[0, :first, :, 0].astype(np.float64).transpose(1, 0, 2)
    scores = np.where(np.tril(np.ones((first, first), bool)), q @ k.T * 0.125, -np.inf)
    want = softmax(scores) @ v
    qkv[:, first:, 1:] = np.nan
    kernel = attention.attention(1, t, 1, d, scale=0.125, causal=True)
    got = ran(kernel, [qkv], (1, t, 1, d), "float32", tmp_path)[0, :, 0]
    assert np.abs(got[:first] - want).max() < 2 * LEAST["float32"]
    assert np.isnan(got[first:]).all()


@st.composite
def caches(draws: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, ...]]:
    """(B, H, D, S) of a cache, and positions to look from."""
    size = [draws(st.integers(1, most)) for most in (2, 3, 160, 700)]
    position = draws(st.integers(0, size[-1]))
    return (size[0], size[1], size[2], size[3]), (0, position, size[-1])


@settings(max_examples=4, deadline=None)
@given(caches(), dtypes)
@example(((2, 3, 16, 50), (0, 1, 50)), "float32")  # one block of threads a head
@example(((2, 3, 16, 50), (0, 1, 50)), "float16")
# Three, of which some have nothing.
@example(((1, 2, 64, 700), (0, 255, 256, 257, 700, 900)), "float32")
@example(((1, 2, 64, 700), (0, 255, 256, 257, 700, 900)), "float16")
@example(((1, 1, 150, 300), (299,)), "float32")  # more columns than threads
@example(((1, 1, 150, 300), (299,)), "float16")
def test_one_query_over_a_cache_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    cache: tuple[tuple[int, int, int, int], tuple[int, ...]],
    dtype: str,
) -> None:
    (b, h, d, s), positions = cache
    folder = tmp_path_factory.mktemp("example")
    qkv, keys, values = (
        draw(*size, dtype=dtype) for size in ((b, 3, h, d), (b, h, d, s), (b, h, s, d))
    )
    parts = attention.parts_of(s)
    kernel = attention.attend(b, h, d, s, scale=d**-0.5, dtype=dtype)
    for name in ("attend", "merge"):
        (folder / name).mkdir()
    code = emulate(kernel, cuda_source(kernel, SM_80), folder / "attend")
    if parts > 1:
        merge = attention.merge(b, h, d, parts, dtype=dtype)
        merged = emulate(merge, cuda_source(merge, SM_80), folder / "merge")
    for position in positions:
        past = min(position, s)
        # Behind the position lies what must not be looked at.
        keys[..., past:], values[..., past:, :] = np.nan, np.nan
        q, k, v = qkv.astype(np.float64).transpose(1, 0, 2, 3)  # each (B, H, D)
        known = np.concatenate([keys[..., :past].astype(np.float64), k[..., None]], -1)
        weights = softmax((q[..., None, :] @ known)[..., 0, :] * d**-0.5)
        all_values = np.concatenate([values[..., :past, :].astype(np.float64), v[..., None, :]], -2)
        expected = (weights[..., None, :] @ all_values)[..., 0, :]
        inputs = [qkv, keys, values, np.array([position], np.int64)]
        for backwards in (False, True):
            out = np.full((b, h, d), np.nan, dtype)
            if parts > 1:
                found = np.full((b, h, parts, d + 2), np.nan, np.float32)
                code(*inputs, found, backwards=backwards)
                merged(found, out, backwards=backwards)
            else:
                code(*inputs, out, backwards=backwards)
            assert np.abs(out - expected).max() < LEAST[dtype]
        keys, values = draw(b, h, d, s, dtype=dtype), draw(b, h, s, d, dtype=dtype)


@pytest.mark.parametrize("d", [1, 16, 64, 80, 128, 150, 256, 512])
def test_a_block_asks_for_no_more_than_every_gpu_has(d: int) -> None:
    assert attention.fits(d)
    for kernel in (
        attention.attention(1, 65, 1, d, scale=1.0, causal=True),
        attention.attend(1, 1, d, 1000, scale=1.0),
    ):
        assert extents(kernel)["threadIdx.x"] <= 1024
        found = re.findall(r"__shared__ .*float \w+\[(\d+)\]", cuda_source(kernel, SM_80))
        floats = [int(size) for size in found]
        assert floats and 4 * sum(floats) <= 48 * 1024


def test_the_emulator_sees_a_barrier_that_not_all_threads_reach(tmp_path: Path) -> None:
    def body() -> None:
        out = api.T.arg("out", api.T.buffer((64,), "float32"))
        with block.launch(1, 64) as (_, thread):
            api.T.buffer_store(out, block.f32(1.0), [thread])

    kernel = gpu.kernel("uneven", body)
    source = cuda_source(kernel, SM_80)
    uneven = source.rstrip()[:-1] + "if (threadIdx.x < 32) { __syncthreads(); }\n}\n"
    code = emulate(kernel, uneven, tmp_path)
    with pytest.raises(DivergentBarrier):
        code(np.zeros(64, np.float32))


def test_the_emulator_sees_a_missing_barrier(tmp_path: Path) -> None:
    kernel = attention.attention(1, 40, 1, 16, scale=1.0, causal=True)
    source = cuda_source(kernel, SM_80).replace("__syncthreads();", "", 3)
    code = emulate(kernel, source, tmp_path)
    qkv, results = draw(1, 40, 3, 1, 16), []
    for backwards in (False, True):
        out = np.zeros((1, 40, 1, 16), np.float32)
        code(qkv, out, backwards=backwards)
        results.append(out)
    assert not np.array_equal(results[0], results[1])
