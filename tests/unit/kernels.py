"""Kernels called alone: for which targets, and on what."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.job.compile import api
from bench.job.compile.target import CompileTarget, detect_cpu

HOST = detect_cpu()
# The tiles of narrower machines, in code for this one.
AVX2 = CompileTarget(HOST.kind, HOST.mcpu, ("avx2",), HOST.cores)
SSE = CompileTarget(HOST.kind, HOST.mcpu, (), HOST.cores)


def call(
    kernel: Any, inputs: list[np.ndarray], shape: tuple[int, ...], code_for: CompileTarget = HOST
) -> np.ndarray:
    """What ``kernel`` writes over an output that was NaN before."""
    code = api.compile_kernel(kernel, code_for.tvm())
    device = api.device("cpu")
    out = api.tensor(np.full(shape, np.nan, np.float32), device)
    code(*(api.tensor(array, device) for array in inputs), out)
    result: np.ndarray = out.numpy()
    return result


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, float32, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def attended(q: Any, k: Any, v: Any, scale: float, causal: bool) -> np.ndarray:
    """Attention of (B, H, T, D) in float64, the plain way."""
    scores = np.einsum("bhid,bhjd->bhij", *(x.astype(np.float64) for x in (q, k))) * scale
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    weights = powers / powers.sum(-1, keepdims=True)
    out: np.ndarray = np.einsum("bhij,bhjd->bhid", weights, v.astype(np.float64))
    return out
