"""Weights stored in int8 and bfloat16: kernels, parameters, whole models, and mistakes planted."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import counts
from bench.catalog import CHOICES, WEIGHT_ONLY
from bench.errors import UsageFault
from bench.generation import GenerateSpec
from bench.host import report, rounding
from bench.job import artefacts, backends, gpt, models, modes, quantise, rating, reference
from bench.job.backends.tvm import TvmReady
from bench.job.compile import api, build, pipelines, rewrite
from bench.job.compile.importer import import_module
from bench.job.compile.schedules import linear, panels, tile
from bench.job.compile.target import CompileTarget
from bench.record import JobSpec, Parity, Result, Weights
from bench.roofline import Peak
from tests.unit.kernels import AVX2, HOST, SSE, call, draw
from tests.unit.samples import record, result
from tests.unit.test_schedules import gelu, gelu_tanh

FORMATS = [panels.BFLOAT16, panels.INT8]
targets = st.sampled_from([HOST, AVX2, SSE])


def rounded(weight: np.ndarray, stored: panels.Format) -> np.ndarray:
    return quantise.rounded(torch.from_numpy(weight), stored.name).numpy()


def arrays(stored: panels.Format, weight: np.ndarray, width: int) -> list[np.ndarray]:
    """What a kernel takes for a weight."""
    packed, scales = stored.stored(weight, width)
    return [packed] if scales is None else [packed, scales]


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.booleans(),
    st.sampled_from([None, *linear.ACTIVATIONS]), st.booleans(), st.sampled_from(FORMATS), targets,
)  # fmt: skip
@example(1, 64, 48, False, None, False, panels.INT8, HOST)
@example(1, 33, 40, True, "gelu_tanh", True, panels.INT8, AVX2)
@example(13, 50, 7, True, "gelu", True, panels.INT8, SSE)
@example(1, 70, 37, True, None, True, panels.BFLOAT16, HOST)
def test_products_of_any_shape(
    m: int, n: int, k: int, bias: bool, activation: str | None, residual: bool,
    stored: panels.Format, target: CompileTarget,
) -> None:  # fmt: skip
    # Channels of very different sizes: a scale that is another channel's shows.
    w = draw(n, k) * np.exp2(np.arange(n) % 9 - 6).astype(np.float32)[:, None]
    x, b, r = draw(m, k), draw(n), draw(m, n, seed=2)
    exact = {None: lambda y: y, "gelu": gelu, "gelu_tanh": gelu_tanh}[activation]
    want = exact(x.astype(np.float64) @ rounded(w, stored).T + b * bias) + r * residual
    inputs = [x, *arrays(stored, w, tile.panel_width(target)), *[b] * bias, *[r] * residual]
    kernel = linear.linear(
        *(m, n, k), bias=bias, target=target, activation=activation, residual=residual,
        stored=stored,
    )  # fmt: skip
    got = call(kernel, inputs, (m, n))
    assert np.abs(got - want).max() < 2e-6 * (k + 20)
    if activation is None:
        # Against the weights as they were: what half a step of each of them may come to.
        step = np.abs(w).max(1, keepdims=True) / 254 if stored.scaled else np.abs(w) / 256
        least = np.abs(x).astype(np.float64) @ np.broadcast_to(step, w.shape).T
        plain = x.astype(np.float64) @ w.astype(np.float64).T + b * bias + r * residual
        assert (np.abs(got - plain) <= least * (1 + 1e-5) + 2e-6 * (k + 20)).all()


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 90), st.integers(1, 40), st.sampled_from([16, 32, 64]),
    st.sampled_from(FORMATS),
)  # fmt: skip
@example(6, 45, 6, 32, panels.INT8)
@example(6, 45, 6, 32, panels.BFLOAT16)
def test_gather_gives_rows_of_a_stored_weight(
    m: int, n: int, k: int, width: int, stored: panels.Format
) -> None:
    w = draw(n, k) * np.arange(1, n + 1, dtype=np.float32)[:, None]
    at = np.random.default_rng([m, n]).integers(0, n, m).astype(np.int32)
    at[0], at[-1] = n - 1, min(width, n - 1)  # the last row, and the first of the second panel
    got = call(linear.gather(m, n, k, width, stored), [*arrays(stored, w, width), at], (m, k))
    assert (got == rounded(w, stored)[at].astype(np.float32)).all()


@pytest.mark.parametrize("stored", FORMATS, ids=lambda one: one.name)
def test_panels_hold_every_weight_once(stored: panels.Format) -> None:
    w = draw(45, 6)
    packed = arrays(stored, w, 32)[0]
    assert packed.shape == (2, 6, 32) and packed.dtype == np.dtype(stored.dtype)
    rows = packed.transpose(0, 2, 1).reshape(64, 6)
    assert (rows[:45] == stored.narrow(w)[0]).all()
    assert not rows[45:].any()


def assembly(kernel: Any, mcpu: str) -> list[str]:
    target = api.make_target({"kind": "llvm", "mcpu": mcpu})
    compiled = api.tvm.compile(kernel.with_attr("global_symbol", "kernel"), target)
    return str(compiled.mod.inspect_source("asm")).splitlines()


# The code is for x86-64 whatever machine compiles it, but only an LLVM of such a machine is sure to
# have that target. What the kernels compute is tested everywhere.
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86-64")
@pytest.mark.parametrize(("mcpu", "features"), [("skylake-avx512", ("avx512f",)), ("haswell", ())])
@pytest.mark.parametrize("stored", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize("m", [1, 22])
def test_weights_are_widened_by_vectors_once_a_step(
    stored: panels.Format, mcpu: str, features: tuple[str, ...], m: int
) -> None:
    """Sixteen or eight at a time, by no call, and not again for each row of the tile."""
    target = CompileTarget("llvm", mcpu, (*features, "avx2", "fma"), 2)

    def kernel(kind: panels.Format) -> list[str]:
        return assembly(linear.linear(m, 64, 64, bias=True, target=target, stored=kind), mcpu)

    def count(lines: list[str], pattern: str) -> int:
        return sum(bool(re.match(rf"\s+{pattern}\b", line)) for line in lines)

    plain, got = kernel(panels.FLOAT32), kernel(stored)
    widen, finish = {"int8": ("vpmovsxbd", "vcvtdq2ps"), "bfloat16": ("vpmovzxwd", "vpslld")}[
        stored.name
    ]
    widened, sums = count(got, widen), count(got, r"vfmadd\d+ps")
    assert widened > 0
    assert count(got, finish) == widened
    rows = tile.choose(m, 64, tile.panel_width(target), target.lanes, target.registers).rows
    # A vector that is widened is multiplied with every row; int8's scale and bias are some more.
    assert sums >= widened * rows
    assert count(got, r"v?cvtsi2ss") == 0
    assert count(got, "call[q]?") == count(plain, "call[q]?")


CONFIG = gpt.GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=70)


@functools.cache
def parameters(stored: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A GPT's parameters as imported, and as the kernels take them."""
    imported = import_module(gpt.build(CONFIG, 1), (gpt.tokens_for(CONFIG, 1, 6, 1),))
    mod = rewrite.use_kernels(imported.mod, HOST, stored=stored)
    found = rewrite.pack_params(mod, imported.params)
    assert len(mod["main"].params) == 1 + len(found)
    return imported.params, found


@pytest.mark.parametrize("stored", FORMATS, ids=lambda one: one.name)
def test_matrices_are_stored_so_and_what_is_added_or_looked_up_alone_is_not(
    stored: panels.Format,
) -> None:
    before, after = parameters(stored.name)
    kept, scales = after[: len(before)], after[len(before) :]
    matrices = 4 * CONFIG.n_layer + 1  # of each layer; and the embedding, which is the head
    narrow = [(old, new) for old, new in zip(before, kept, strict=True) if new.ndim == 3]
    assert len(narrow) == matrices
    assert {new.dtype for _, new in narrow} == {np.dtype(stored.dtype)}
    assert {new.dtype for new in kept if new.ndim < 3} == {np.dtype(np.float32)}
    assert (16, 32) in {new.shape for new in kept}  # the positions
    assert len(scales) == matrices * stored.scaled
    for (old, _), scale in zip(narrow, scales, strict=False):
        assert (scale == quantise.to_int8(old)[1]).all()


def test_they_are_for_a_cpu() -> None:
    gpu = CompileTarget("cuda", "x86-64", (), 1, "sm_90")
    for name in WEIGHT_ONLY:
        assert set(backends.load(name).dtypes) == {"cpu"}
        with pytest.raises(UsageFault, match="is for a CPU"):
            pipelines.pipeline(name.removeprefix("tvm-")).apply(None, gpu)


def agrees(parity: Parity, stored: str) -> None:
    """It passed both gates, and is as far from the float32 weights as rounding makes it."""
    assert parity.passed and parity.of_stored is not None
    assert parity.tolerance == reference.STORED_TOLERANCE[stored]
    assert parity.of_stored.tolerance == reference.TOLERANCE["float32"]
    assert parity.of_stored.max_rel_err is not None and parity.of_stored.max_rel_err < 1e-5
    assert parity.max_rel_err is not None and parity.max_rel_err > 1e-3


def test_a_prefill_in_bfloat16_agrees_with_both_references(tmp_path: Path, own_store: Path) -> None:
    spec = JobSpec(model="gpt-nano", seq_len=9, batch_size=2, backends=("tvm-bf16",))
    model = models.build(spec)
    reference.write(spec, model, tmp_path)
    prepared = backends.load("tvm-bf16").prepare(spec, modes.programs(spec, model))
    work = modes.start(spec, prepared.ready)
    agrees(reference.gate(spec, work.logits, tmp_path, stored="bfloat16"), "bfloat16")
    # They are other weights: a row that said it had float32's would not pass.
    assert not reference.gate(spec, work.logits, tmp_path).passed


DECODE = JobSpec(model="gpt-nano", mode="decode", seq_len=9, backends=("tvm-int8",))


@dataclass(frozen=True)
class Int8:
    """gpt-nano's prefill and step in int8, the parameters they share, and where references are."""

    libraries: dict[str, Path]
    params: list[np.ndarray]
    references: Path

    def gated(self, params: list[np.ndarray]) -> Parity:
        """Both gates, with ``params`` in place of its own."""
        shared = build.Parameters(params, "cpu")
        loaded = {name: build.load(path, shared) for name, path in self.libraries.items()}
        work = modes.start(DECODE, TvmReady(loaded))
        return reference.gate(DECODE, work.logits, self.references, stored="int8")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Int8:
    folder = tmp_path_factory.mktemp("int8")
    model = models.build(DECODE)
    reference.write(DECODE, model, folder)
    programs = modes.programs(DECODE, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT_FRONTEND_STORE", str(folder / "store"))
        keys = str(backends.load("tvm-int8").compile_only(DECODE, programs).artefact).split(",")
    found = [artefacts.get(folder / "store", key) for key in keys]
    kept = [one for one in found if one is not None]
    assert len({one.params_digest for one in kept}) == 1, "they share their parameters"
    libraries = {name: one.library for name, one in zip(programs, kept, strict=True)}
    return Int8(libraries, kept[0].params, folder)


def test_decoding_in_int8_agrees_with_both_references(int8: Int8) -> None:
    assert int8.params[-1].ndim == 1  # scales are the last
    agrees(int8.gated(int8.params), "int8")


def _layer(params: list[np.ndarray]) -> int:
    """Which parameter is a small matrix of some layer: the output of attention, (48, 48)."""
    return next(at for at, one in enumerate(params) if one.shape == _packed_shape(48, 48))


def _packed_shape(n: int, k: int) -> tuple[int, int, int]:
    return panels.packed_shape(n, k, tile.panel_width(HOST))


def _scale_of(params: list[np.ndarray], at: int) -> np.ndarray:
    narrow = [index for index, one in enumerate(params) if one.dtype == np.int8]
    return params[len(params) - len(narrow) + narrow.index(at)]


def _one_scale(params: list[np.ndarray]) -> None:
    _scale_of(params, _layer(params))[5] *= np.float32(1.5)


def _scales_shifted(params: list[np.ndarray]) -> None:
    scale = _scale_of(params, _layer(params))
    scale[:] = np.roll(scale, 1)


def _panels_swapped(params: list[np.ndarray]) -> None:
    wide = params[next(i for i, p in enumerate(params) if p.shape == _packed_shape(144, 48))]
    wide[[0, 1]] = wide[[1, 0]]


def _one_weight(params: list[np.ndarray]) -> None:
    params[_layer(params)][0, 7, 3] ^= 0x40


def _one_row_of_the_embedding(params: list[np.ndarray]) -> None:
    largest = max(range(len(params)), key=lambda at: params[at].size)
    _scale_of(params, largest)[17] *= np.float32(2)


@pytest.mark.parametrize(
    "plant",
    [_one_scale, _scales_shifted, _panels_swapped, _one_weight, _one_row_of_the_embedding],
)
def test_a_mistake_that_is_planted_is_refused(
    plant: Callable[[list[np.ndarray]], None], int8: Int8
) -> None:
    params = [param.copy() for param in int8.params]
    plant(params)
    parity = int8.gated(params)
    assert parity.of_stored is not None and not parity.of_stored.passed
    assert not parity.passed


def test_scales_that_are_wrong_from_the_start_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong in the reference of the stored weights too: what sees it is the float32 weights'."""
    right = quantise.to_int8

    def coarse(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole, scales = right(weight)
        return (whole // 16).astype(np.int8), scales * 16

    monkeypatch.setattr(quantise, "to_int8", coarse)
    spec = DECODE.model_copy(update={"mode": "prefill"})
    reference.write(spec, models.build(spec), tmp_path)
    wide = quantise.widened(models.build(spec), "int8")
    parity = reference.gate(spec, lambda tokens: np.asarray(wide(tokens)), tmp_path, stored="int8")
    assert parity.of_stored is not None and parity.of_stored.passed
    assert not parity.passed


@pytest.mark.parametrize("stored", FORMATS, ids=lambda one: one.name)
def test_bytes_are_counted_as_they_are_stored(stored: panels.Format) -> None:
    """No matrix of this width and vocabulary leaves a place in a panel empty."""
    config = gpt.GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=96)
    imported = import_module(gpt.build(config, 1), (gpt.tokens_for(config, 1, 1, 1),))
    mod = rewrite.use_kernels(imported.mod, HOST, stored=stored.name)
    found = rewrite.pack_params(mod, imported.params)
    parameters = sum(one.nbytes for one in found if one.shape != (16, 32))
    row = 32 * np.dtype(stored.dtype).itemsize + 4 * stored.scaled  # of the embedding
    beside = row + 4 * 32 + 4 * 96  # a row of the positions; the logits
    work = counts.of_call(config, "prefill", 1, 1, "float32", stored.name)
    assert work.bytes_moved == parameters + beside
    assert work.flops == counts.of_call(config, "prefill", 1, 1, "float32").flops


def test_a_row_is_rated_by_what_its_weights_take() -> None:
    spec = JobSpec(mode="decode", seq_len=128)
    peak = Peak(gemm_gflops=200.0, gemm="torch.mm", read_gb_s=40.0, read="torch.sum")
    moved = {}
    for name in ("tvm-optimized", "tvm-bf16", "tvm-int8"):
        row = rating.rated(result(name, 10.0, spec), spec, peak)
        assert row.roofline is not None
        moved[name] = row.roofline.bytes_moved
    assert 0.50 < moved["tvm-bf16"] / moved["tvm-optimized"] < 0.52
    assert 0.25 < moved["tvm-int8"] / moved["tvm-optimized"] < 0.28


def test_rows_say_what_their_weights_are() -> None:
    row = Result.blank("tvm-int8", JobSpec())
    assert (row.dtype, row.weight_dtype) == ("float32", "int8")
    assert Result.blank("tvm-optimized", JobSpec()).weight_dtype is None
    plain = record()
    parity = Parity(
        reference="float64", max_abs_err=1e-2, max_rel_err=2e-2, top1_agreement=0.9, passed=True,
        tolerance=6e-2,
    )  # fmt: skip
    inner = parity.model_copy(update={"max_rel_err": 3e-7, "tolerance": 1e-4})
    added = [
        result(name, ms).model_copy(
            update={"parity": parity.model_copy(update={"of_stored": inner})}
        )
        for name, ms in (("tvm-int8", 60.0), ("tvm-bf16", 90.0))
    ]
    both = plain.model_copy(update={"results": [*added, *plain.results]})
    cells = [row.cells[:2] for row in report.rows(both)]
    at = cells.index(("tvm-optimized", "after"))
    assert cells[at + 1 : at + 3] == [("tvm-int8", "int8"), ("tvm-bf16", "bfloat16")]
    (said, _) = rounding.lines(added)
    assert said in report.sentences(both)
    assert "tvm-int8 stores its weights in int8" in said
    assert "2.0e-02 (allowed: 6.0e-02)" in said and "3.0e-07 (allowed: 1.0e-04)" in said
    assert rounding.lines(plain.results) == []


def test_generating_and_evaluating_know_them() -> None:
    weights = Weights.of("here", "0" * 64, CONFIG)
    for name in CHOICES:
        assert GenerateSpec(weights=weights, model="custom", backend=name).backend == name
    with pytest.raises(ValueError, match="tvm-int8"):
        GenerateSpec(weights=weights, model="custom", backend="tvm-int4")
