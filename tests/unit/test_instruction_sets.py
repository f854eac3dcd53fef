"""Kernels as code for CPUs of each vector width, run wherever this one has what they need."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.job.compile import api, cpu
from bench.job.compile.schedules import attention, linear, panels, rows, tile
from bench.job.compile.target import CompileTarget, detect_cpu
from tests.unit.kernels import attended, call, draw

# Elsewhere LLVM knows none of these names; test_schedules.py runs the kernels on any CPU.
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="about the CPUs of x86-64")
# By LLVM's name: the vectors that it has, and the registers of them in its assembly.
WIDTHS = {
    "x86-64": (4, 16, "xmm"),
    "haswell": (8, 16, "ymm"),
    "x86-64-v4": (16, 32, "zmm"),
}


def target_of(mcpu: str) -> CompileTarget:
    """The target, if this CPU can run its code."""
    lacks = cpu.lacking(api.cpu_features(mcpu), cpu.host_flags())
    if lacks:
        # Its own code would be narrower, then: what is skipped is no code that users here can have.
        assert detect_cpu().lanes < WIDTHS[mcpu][0], lacks
        pytest.skip(f"this CPU lacks {', '.join(lacks)}")
    return detect_cpu(2, mcpu)


@pytest.mark.parametrize("mcpu", WIDTHS)
def test_code_uses_the_widest_registers_and_no_wider(mcpu: str) -> None:
    lanes, registers, name = WIDTHS[mcpu]
    target = detect_cpu(2, mcpu)  # compiling for it needs no such CPU
    assert (target.lanes, target.registers) == (lanes, registers)
    kernel = linear.linear(64, 96, 48, bias=True, target=target).with_attr(
        "global_symbol", "kernel"
    )
    assembly = api.tvm.compile(kernel, target.tvm()).mod.inspect_source("asm")
    used = set(re.findall(r"%([xyz]mm)\d+", assembly))
    assert max(used) == name


@pytest.mark.parametrize("mcpu", WIDTHS)
@settings(max_examples=8, deadline=None)
@given(m=st.integers(1, 90), n=st.integers(1, 140), k=st.integers(1, 60))
@example(m=64, n=96, k=48)  # tiles of eight rows with AVX-512
@example(m=12, n=32, k=16)  # of twelve
@example(m=1, n=33, k=1)
def test_linear(mcpu: str, m: int, n: int, k: int) -> None:
    target = target_of(mcpu)
    x, w, b = draw(m, k), draw(n, k), draw(n)
    packed = panels.pack(w, tile.panel_width(target))
    kernel = linear.linear(m, n, k, bias=True, target=target)
    got = call(kernel, [x, packed, b], (m, n), target)
    assert np.abs(got - (x.astype(np.float64) @ w.astype(np.float64).T + b)).max() < 1e-6 * (k + 10)


@pytest.mark.parametrize("mcpu", WIDTHS)
@settings(max_examples=6, deadline=None)
@given(t=st.integers(1, 150), d=st.integers(1, 70), causal=st.booleans())
@example(t=130, d=64, causal=True)
def test_attention(mcpu: str, t: int, d: int, causal: bool) -> None:
    target = target_of(mcpu)
    qkv = draw(1, t, 3, 2, d)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    kernel = attention.attention(1, t, 2, d, scale=d**-0.5, causal=causal, target=target)
    got = call(kernel, [qkv], (1, t, 2, d), target)
    want = attended(q, k, v, d**-0.5, causal)
    assert np.abs(got - want.transpose(0, 2, 1, 3)).max() < 2e-5


@pytest.mark.parametrize("mcpu", WIDTHS)
@settings(max_examples=6, deadline=None)
@given(m=st.integers(1, 20), n=st.integers(1, 200))
@example(m=7, n=100)
def test_rows(mcpu: str, m: int, n: int) -> None:
    target = target_of(mcpu)
    x, w, b = draw(m, n), draw(n), draw(n)
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    got = call(rows.softmax(m, n, target), [x], (m, n), target)
    assert np.abs(got - powers / powers.sum(1, keepdims=True)).max() < 1e-6
    spread = np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    normal: Any = (wide - wide.mean(1, keepdims=True)) / spread * w + b
    got = call(rows.layer_norm(m, n, 1e-5, target), [x, w, b], (m, n), target)
    assert (np.abs(got - normal) < 1e-5 + 1e-5 * np.abs(w) / spread).all()
