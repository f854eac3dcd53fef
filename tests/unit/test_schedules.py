"""Each kernel on its own, against NumPy in float64."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.job import gpt
from bench.job.compile import api, rewrite
from bench.job.compile.importer import import_module
from bench.job.compile.schedules import linear, matmul, rows, tile, vectormath
from bench.job.compile.target import CompileTarget, detect_cpu

HOST = detect_cpu()
# The tiles of narrower machines, which any machine's code generator can run.
AVX2 = CompileTarget(HOST.kind, HOST.mcpu, ("avx2",), HOST.cores)
SSE = CompileTarget(HOST.kind, HOST.mcpu, (), HOST.cores)


def call(kernel: Any, inputs: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """What ``kernel`` writes over an output that was NaN before."""
    code = api.compile_kernel(kernel, HOST.tvm())
    device = api.device("cpu")
    out = api.tensor(np.full(shape, np.nan, np.float32), device)
    code(*(api.tensor(array, device) for array in inputs), out)
    result: np.ndarray = out.numpy()
    return result


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def random_shapes(count: int) -> list[tuple[int, int, int]]:
    random = np.random.default_rng(7)
    return [(int(m), int(n), int(k)) for m, n, k in random.integers(1, 100, (count, 3))]


@pytest.mark.parametrize("target", [HOST, AVX2, SSE], ids=["host", "avx2", "sse"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 33, 5), (64, 48, 48), (12, 50, 7), (13, 31, 64), *random_shapes(6)]
)
def test_linear_of_any_shape(shape: tuple[int, int, int], target: CompileTarget) -> None:
    m, n, k = shape
    x, w, b = draw(m, k), draw(n, k), draw(n)
    packed = linear.pack(w, tile.panel_width(target))
    expected = x.astype(np.float64) @ w.astype(np.float64).T
    plain = call(linear.linear(m, n, k, bias=False, target=target), [x, packed], (m, n))
    assert np.abs(plain - expected).max() < 1e-6 * (k + 10)
    biased = call(linear.linear(m, n, k, bias=True, target=target), [x, packed, b], (m, n))
    assert np.abs(biased - (expected + b)).max() < 1e-6 * (k + 10)


def test_gather_reads_rows_of_a_packed_weight() -> None:
    w, at = draw(45, 6), np.array([0, 44, 7, 31, 32, 7], np.int32)
    got = call(linear.gather(6, 45, 6, 32), [linear.pack(w, 32), at], (6, 6))
    assert (got == w[at]).all()


@pytest.mark.parametrize(
    "shape", [(3, 17, 16, 17), (1, 1, 5, 1), (2, 4, 1, 3), (12, 64, 64, 64), (2, 13, 9, 47)]
)
def test_matmul_of_any_shape(shape: tuple[int, int, int, int]) -> None:
    g, m, k, n = shape
    a, b = draw(g, m, k), draw(g, k, n)
    got = call(matmul.matmul(g, m, k, n, HOST), [a, b], (g, m, n))
    assert np.abs(got - a.astype(np.float64) @ b.astype(np.float64)).max() < 1e-6 * (k + 10)


@pytest.mark.parametrize("n", [1, 5, 16, 48, 100])
def test_layer_norm(n: int) -> None:
    x, w, b = draw(7, n) + 30, draw(n), draw(n)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * w + b
    got = call(rows.layer_norm(7, n, 1e-5, HOST), [x, w, b], (7, n))
    assert np.abs(got - expected).max() < 5e-5


@pytest.mark.parametrize("n", [1, 5, 16, 48, 100])
def test_softmax_with_masked_places(n: int) -> None:
    x = draw(7, n) * 20
    x[3, 1:] = -np.inf
    powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    got = call(rows.softmax(7, n, HOST), [x], (7, n))
    assert np.abs(got - powers / powers.sum(1, keepdims=True)).max() < 1e-6
    assert (got[3, 1:] == 0).all()


def apply(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    def body() -> None:
        a = api.T.arg("a", api.T.buffer(x.shape, "float32"))
        b = api.T.arg("b", api.T.buffer(x.shape, "float32"))
        with api.T.serial(0, len(x) // 16) as block, api.T.vectorized(0, 16) as j:
            api.T.buffer_store(b, function(a[block * 16 + j]), [block * 16 + j])

    return call(api.prim_func("apply", body), [x], x.shape)


def test_exp_over_the_whole_range() -> None:
    x = np.linspace(-87, 88.5, 1 << 14).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    assert np.abs(apply(vectormath.exp, x) / expected - 1).max() < 5e-7
    edges = np.array([-np.inf, -200, -100, 0, 89, 200, np.inf, np.nan] * 2, np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(apply(vectormath.exp, edges), np.exp(edges), rtol=1e-6)


def test_gelu_over_the_whole_range() -> None:
    x = np.linspace(-50, 50, 1 << 14).astype(np.float32)
    wide = x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    expected = 0.5 * wide * (1 + np.tanh(inner))
    assert np.abs(apply(vectormath.gelu_tanh, x) - expected).max() < 4e-6


@pytest.mark.parametrize("target", [HOST, AVX2, SSE], ids=["host", "avx2", "sse"])
def test_no_kernel_calls_the_allocator(target: CompileTarget) -> None:
    """What a kernel keeps of its own is on the stack, if not in registers."""
    for kernel in (
        linear.linear(64, 100, 48, bias=True, target=target),
        matmul.matmul(2, 64, 48, 64, target),
        rows.layer_norm(7, 100, 1e-5, target),
        rows.softmax(7, 100, target),
    ):
        compiled = api.tvm.compile(kernel.with_attr("global_symbol", "kernel"), HOST.tvm())
        source = str(compiled.mod.inspect_source("ll"))
        assert "ParallelLaunch" in source
        assert "AllocWorkspace" not in source


@functools.cache
def kernels(layers: int) -> list[str]:
    """The names of the functions that a GPT of so many layers is rewritten to use."""
    config = gpt.GPTConfig(n_layer=layers, n_head=2, n_embd=32, block_size=16, vocab_size=70)
    imported = import_module(gpt.build(config, 1), (gpt.tokens_for(config, 1, 6, 1),))
    mod = rewrite.use_kernels(imported.mod, HOST)
    return sorted(var.name_hint for var in mod.get_global_vars())


def test_layers_share_their_kernels() -> None:
    # qkv, attention's projection, and the two of the MLP, each with a bias; the head without.
    assert len([name for name in kernels(1) if re.match("linear_", name)]) == 5
    assert kernels(1) == kernels(3)


def test_a_weight_that_is_used_otherwise_is_not_packed() -> None:
    import torch

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(9, 5))
            self.v = torch.nn.Parameter(torch.randn(9, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            once = torch.nn.functional.linear(x, self.v)
            return once + torch.nn.functional.linear(x, self.w) + self.w.sum()

    imported = import_module(Both(), (torch.randn(2, 5),))
    packed = rewrite.pack_params(rewrite.use_kernels(imported.mod, HOST), imported.params)
    assert sorted(param.ndim for param in packed) == [2, 3]
