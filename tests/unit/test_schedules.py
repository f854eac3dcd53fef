"""Each kernel on its own, against NumPy in float64."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.catalog import BertConfig
from bench.job import bert, decoder, gpt
from bench.job.compile import api, build, fuse_attention, rewrite
from bench.job.compile.importer import import_module
from bench.job.compile.schedules import attention, linear, matmul, panels, rows, tile, vectormath
from bench.job.compile.target import CompileTarget
from tests.unit.kernels import AVX2, HOST, SSE, attended, call, draw

ALONE = CompileTarget(HOST.kind, HOST.mcpu, HOST.features, 1)


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
    packed = panels.pack(w, tile.panel_width(target))
    expected = x.astype(np.float64) @ w.astype(np.float64).T
    plain = call(linear.linear(m, n, k, bias=False, target=target), [x, packed], (m, n))
    assert np.abs(plain - expected).max() < 1e-6 * (k + 10)
    biased = call(linear.linear(m, n, k, bias=True, target=target), [x, packed, b], (m, n))
    assert np.abs(biased - (expected + b)).max() < 1e-6 * (k + 10)


targets = st.sampled_from([HOST, AVX2, SSE])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9), st.integers(1, 90), st.integers(1, 40), st.sampled_from([16, 32, 64]))
@example(6, 45, 6, 32)
def test_gather_reads_rows_of_a_packed_weight(m: int, n: int, k: int, width: int) -> None:
    w = draw(n, k)
    at = np.random.default_rng([m, n]).integers(0, n, m).astype(np.int32)
    at[0], at[-1] = n - 1, min(width, n - 1)  # the last row, and the first of the second panel
    got = call(linear.gather(m, n, k, width), [panels.pack(w, width), at], (m, k))
    assert (got == w[at]).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), targets)
@example(3, 17, 16, 17, HOST)
@example(1, 1, 5, 1, HOST)
@example(2, 4, 1, 3, HOST)
@example(2, 13, 9, 47, HOST)
@example(12, 64, 64, 64, HOST)
@example(2, 13, 9, 47, SSE)
def test_matmul_of_any_shape(g: int, m: int, k: int, n: int, target: CompileTarget) -> None:
    a, b = draw(g, m, k), draw(g, k, n)
    got = call(matmul.matmul(g, m, k, n, target), [a, b], (g, m, n))
    assert np.abs(got - a.astype(np.float64) @ b.astype(np.float64)).max() < 1e-6 * (k + 10)


def off_by(m: int, n: int, target: CompileTarget) -> tuple[np.ndarray, np.ndarray]:
    """How far a layer norm of rows near 30 is from float64's, and |weight| over each row's spread.

    What the mean is rounded by is divided by the spread, which may be small where a row is short.
    """
    x, w, b = draw(m, n) + 30, draw(n), draw(n)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    got = call(rows.layer_norm(m, n, 1e-5, target), [x, w, b], (m, n))
    return np.abs(got - (centred / spread * w + b)), np.abs(w) / spread


@pytest.mark.parametrize("n", [1, 5, 16, 48, 100])
def test_layer_norm(n: int) -> None:
    assert off_by(7, n, HOST)[0].max() < 5e-5


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(1, 200), targets)
def test_layer_norm_of_any_shape(m: int, n: int, target: CompileTarget) -> None:
    off, scale = off_by(m, n, target)
    assert (off < 5e-5 + 2e-5 * scale).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(1, 200), targets)
@example(7, 1, HOST)
@example(7, 5, HOST)
@example(7, 16, HOST)
@example(7, 48, HOST)
@example(7, 100, HOST)
def test_softmax_of_any_shape_with_masked_places(m: int, n: int, target: CompileTarget) -> None:
    x = draw(m, n) * 20
    x[m // 2, 1:] = -np.inf
    powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    got = call(rows.softmax(m, n, target), [x], (m, n))
    assert np.abs(got - powers / powers.sum(1, keepdims=True)).max() < 1e-6
    assert (got[m // 2, 1:] == 0).all()


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))
@example(1, 1, 1)
@example(2, 13, 33)
def test_what_no_kernel_is_for_is_scheduled_for_any_shape(b: int, t: int, d: int) -> None:
    """``leftover``: elementwise, transposed, broadcast and summed along either axis."""

    class Mixed(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            turned = torch.relu(x.transpose(1, 2) * y)
            return turned, turned.sum(1), x.mean(2), torch.cat([x, x.exp()], dim=2)

    x, y = draw(b, t, d), draw(b, d, t, seed=1)
    module, tensors = Mixed(), (torch.from_numpy(x), torch.from_numpy(y))
    compiled = build.compile_module(module, tensors, "optimized", HOST)
    loaded = build.Loaded(compiled.executable, build.Parameters(compiled.params, "cpu"))
    got = loaded.run(*map(loaded.prepare, (x, y)))
    wide = x.astype(np.float64)
    turned = np.maximum(wide.transpose(0, 2, 1) * y, 0)
    wanted = (turned, turned.sum(1), wide.mean(2), np.concatenate([wide, np.exp(wide)], 2))
    for ours, want in zip(got, wanted, strict=True):
        assert np.abs(ours.numpy() - want).max() < 1e-5 * (1 + np.abs(want).max())


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
    edges = np.array([-np.inf, -200, -104, 0, 89, 200, np.inf, np.nan] * 2, np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(apply(vectormath.exp, edges), np.exp(edges), rtol=1e-6)


def test_exp_is_normal_or_zero() -> None:
    least = np.finfo(np.float32).smallest_normal
    x = np.linspace(-110, -87, 1 << 14).astype(np.float32)
    got = apply(vectormath.exp, x)
    assert (got[x < np.log(least)] == 0).all()
    assert (got[x > -87.32] >= least).all()
    assert ((got == 0) | (got >= least)).all()


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    result: np.ndarray = 0.5 * x * (1 + np.tanh(inner))
    return result


def gelu(x: np.ndarray) -> np.ndarray:
    phi = [0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel()]
    result: np.ndarray = x * np.array(phi).reshape(x.shape)
    return result


def test_gelu_over_the_whole_range() -> None:
    x = np.linspace(-50, 50, 1 << 14).astype(np.float32)
    wide = x.astype(np.float64)
    assert np.abs(apply(vectormath.gelu_tanh, x) - gelu_tanh(wide)).max() < 4e-6
    assert np.abs(apply(vectormath.gelu, x) - gelu(wide)).max() < 4e-6
    edges = np.array([-np.inf, -200, 0, 200, np.inf, np.nan, 1, -1] * 2, np.float32)
    np.testing.assert_allclose(
        apply(vectormath.gelu, edges),
        np.array([0, 0, 0, 200, np.inf, np.nan, 0.8413447, -0.1586553] * 2),
        rtol=0,
        atol=4e-7,
    )


@pytest.mark.parametrize("target", [HOST, AVX2, SSE], ids=["host", "avx2", "sse"])
def test_no_kernel_but_attention_calls_the_allocator(target: CompileTarget) -> None:
    """What a kernel keeps of its own is on the stack, if not in registers.

    Attention's scores may be thousands: they lie in TVM's pool of the thread.
    """
    for kernel in (
        linear.linear(64, 100, 48, bias=True, target=target),
        matmul.matmul(2, 64, 48, 64, target),
        rows.layer_norm(7, 100, 1e-5, target),
        rows.softmax(7, 100, target),
        linear.gather(9, 100, 48, 32),
    ):
        compiled = api.tvm.compile(kernel.with_attr("global_symbol", "kernel"), HOST.tvm())
        source = str(compiled.mod.inspect_source("ll"))
        assert "ParallelLaunch" in source
        assert "AllocWorkspace" not in source


def test_every_kernel_is_spread_over_the_cores() -> None:
    for kernel in (
        linear.linear(1, 100, 48, bias=True, target=HOST),
        linear.gather(9, 100, 48, 32),
        attention.attention(1, 40, 2, 16, scale=1, causal=True, target=HOST),
        attention.attend(1, 2, 16, 40, scale=1, target=HOST),
    ):
        compiled = api.tvm.compile(kernel.with_attr("global_symbol", "kernel"), HOST.tvm())
        assert "ParallelLaunch" in str(compiled.mod.inspect_source("ll"))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 150), st.integers(1, 3), st.integers(1, 70), st.booleans(),
    targets,
)  # fmt: skip
@example(1, 64, 2, 64, True, HOST)
@example(2, 65, 3, 13, True, HOST)
@example(1, 130, 1, 17, False, SSE)
def test_attention_of_any_shape(
    b: int, t: int, h: int, d: int, causal: bool, target: CompileTarget
) -> None:
    qkv, scale = draw(b, t, 3, h, d) * 2, d**-0.5
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    want = attended(q, k, v, scale, causal)
    kernel = attention.attention(b, t, h, d, scale=scale, causal=causal, target=target)
    got = call(kernel, [qkv], (b, t, h, d))
    assert np.abs(got - want.transpose(0, 2, 1, 3)).max() < 2e-5


@pytest.mark.parametrize("target", [HOST, AVX2, SSE], ids=["host", "avx2", "sse"])
def test_causal_attention_does_not_visit_what_lies_behind(target: CompileTarget) -> None:
    """Visited and masked it would do harm: no weight, not even none, times NaN is a number."""
    t, d = 150, 16
    first = tile.choose(t, d, t, target.lanes, target.registers).columns  # the first block's
    qkv = draw(1, t, 3, 1, d)
    q, k, v = (qkv[:, :first, i].transpose(0, 2, 1, 3) for i in range(3))
    want = attended(q, k, v, 0.25, True).transpose(0, 2, 1, 3)
    qkv[:, first:, 1:] = np.nan
    kernel = attention.attention(1, t, 1, d, scale=0.25, causal=True, target=target)
    got = call(kernel, [qkv], (1, t, 1, d))
    assert np.abs(got[:, :first] - want).max() < 2e-5
    assert np.isnan(got[:, first:]).all()


def test_attention_of_scores_far_apart() -> None:
    """Larger scores turn up later: what was summed before is rescaled, not lost, not NaN."""
    qkv = draw(1, 150, 3, 1, 8)
    qkv[:, :, 0] = 30
    qkv[0, :, 1] = np.linspace(-4, 4, 150, dtype=np.float32)[:, None, None]
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    want = attended(q, k, v, 0.5, True)
    kernel = attention.attention(1, 150, 1, 8, scale=0.5, causal=True, target=HOST)
    got = call(kernel, [qkv], (1, 150, 1, 8))
    assert np.abs(got - want.transpose(0, 2, 1, 3)).max() < 2e-4


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 70), st.integers(1, 150),
    st.floats(0, 1), targets,
)  # fmt: skip
@example(1, 2, 64, 144, 0.9, HOST)
@example(1, 2, 16, 17, 1.0, SSE)
@example(2, 3, 13, 40, 0.0, AVX2)
def test_one_query_over_a_cache_reads_nothing_past_its_position(
    b: int, h: int, d: int, s: int, share: float, target: CompileTarget
) -> None:
    past = round(share * s)
    qkv, keys, values = draw(b, 3, h, d) * 2, draw(b, h, d, s), draw(b, h, s, d, seed=1)
    k = np.concatenate([keys[..., :past].swapaxes(2, 3), qkv[:, 1, :, None]], axis=2)
    v = np.concatenate([values[:, :, :past], qkv[:, 2, :, None]], axis=2)
    want = attended(qkv[:, 0, :, None], k, v, d**-0.5, False)[:, :, 0]
    keys[..., past:], values[:, :, past:] = np.nan, np.nan
    kernel = attention.attend(b, h, d, s, scale=d**-0.5, target=target)
    got = call(kernel, [qkv, keys, values, np.array([past])], (b, h, d))
    assert np.abs(got - want).max() < 2e-5


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 70), st.integers(1, 40),
    st.booleans(), st.sampled_from([None, *linear.ACTIVATIONS]), st.booleans(), targets,
)  # fmt: skip
@example(13, 50, 7, True, "gelu", True, HOST)
@example(1, 33, 5, True, "gelu_tanh", True, SSE)
@example(1, 70, 37, False, None, False, AVX2)
@example(64, 500, 7, True, "gelu", True, ALONE)  # panels in groups, of which the last has fewer
def test_epilogues_of_any_shape(
    m: int, n: int, k: int, bias: bool, activation: str | None, residual: bool,
    target: CompileTarget,
) -> None:  # fmt: skip
    x, w, b, r = draw(m, k), draw(n, k), draw(n), draw(m, n, seed=2)
    want = x.astype(np.float64) @ w.astype(np.float64).T + b * bias
    if activation:
        exact = {"gelu": gelu, "gelu_tanh": gelu_tanh}[activation]
        want = exact(want)
    inputs = [x, panels.pack(w, tile.panel_width(target)), *[b] * bias]
    if residual:
        want, inputs = want + r, [*inputs, r]
    kernel = linear.linear(
        m, n, k, bias=bias, target=target, activation=activation, residual=residual
    )
    assert np.abs(call(kernel, inputs, (m, n)) - want).max() < 1e-6 * (k + 20)


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


def found(model: Any, *example: Any) -> list[str]:
    """The kernels that a model is rewritten to use, its attention fused."""
    mod = fuse_attention.use_attention(import_module(model, example).mod, HOST)
    return sorted(
        re.sub(r"_\d+(x\d+)*", "", var.name_hint)
        for var in rewrite.use_kernels(mod, HOST).get_global_vars()
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_a_layer_is_seven_kernels(batch: int) -> None:
    """Norm, projection, attention, projection and sum; norm, layer and GELU, layer and sum."""
    config = gpt.GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=70)
    model = gpt.build(config, 1)
    layer = ["gather", "layer_norm", "linear", "linear_bias", "linear_bias_gelu_tanh"]
    layer += ["linear_bias_residual", "linear_bias_residual", "main"]
    assert found(model, gpt.tokens_for(config, batch, 6, 1)) == sorted(["causal_attention", *layer])
    programs = decoder.programs(model, batch, 5, 12)
    step = found(programs["step"].module, *programs["step"].example)
    assert step == sorted(["attend", *layer])
    prefill = found(programs["prefill"].module, *programs["prefill"].example)
    assert "causal_attention" in prefill
    assert "matmul" not in prefill


def test_berts_attention_is_one_kernel_too() -> None:
    config = BertConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=70)
    names = found(bert.build(config, 1), torch.arange(6)[None])
    assert names.count("attention") == 1  # of both layers
    assert not {"softmax", "matmul", "causal_attention"} & set(names)


def test_attention_that_is_masked_otherwise_is_left_alone() -> None:
    class Windowed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = torch.nn.Linear(8, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (y.view(1, 6, 2, 4).transpose(1, 2) for y in self.c_attn(x).split(8, dim=2))
            at = torch.arange(6)
            near = (at[:, None] - at[None]).abs() < 3
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near)
            return y.transpose(1, 2).reshape(1, 6, 8)

    assert not [name for name in found(Windowed(), torch.randn(1, 6, 8)) if "attention" in name]


def test_a_weight_that_is_used_otherwise_is_not_packed() -> None:
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
