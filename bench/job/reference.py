"""The float64 reference that every backend is gated against, and the gate itself.

Of a GPT it runs layer by layer: one block at a time is widened to float64 and dropped again, so
that a model too big to hold twice has a reference too. A BERT is widened whole. The logits are
written to disk as memory-mapped arrays, one for every gated call.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.catalog import DECODE_STEPS, GATED_CALLS, GATED_STEPS, BertConfig
from bench.job import gpt
from bench.job.models import Model
from bench.record import JobSpec, Parity

NAME = "float64, layer by layer"
NAME_WHOLE = "float64"
# Largest |error| allowed, over the largest |reference logit|. float32 rounding through GPT-2's
# twelve layers gives some 2e-6, polynomial exp and tanh no more; the wrong GELU gives 3e-4. The
# 16-bit types round the weights too, to 8 and 11 binary digits: their tolerances stand for that.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}
# Logits of seeded weights lie close together, so that rounding to 16 bits turns some first places.
TOP1_LEAST = {"float32": 0.99, "float16": 0.95, "bfloat16": 0.80}
_HEAD_ROWS = 8192  # vocabulary rows widened at once: 8192 x 1600 float64 is 105 MB


def timed_tokens(spec: JobSpec) -> torch.Tensor:
    """The inputs (B, T) that are timed; in decoding, the context that it starts with."""
    return gpt.tokens_for(spec.geometry, spec.batch_size, spec.seq_len, spec.seed)


def gated_tokens(spec: JobSpec, call: int) -> torch.Tensor:
    """The inputs of gated call ``call``: fresh for each call, the same for each backend.

    (B, T); in decoding (B, T + n): n tokens are added to the prompt one by one.
    """
    length = spec.seq_len + _steps(spec)
    return gpt.tokens_for(spec.geometry, spec.batch_size, length, spec.seed + 1 + call)


def logits_float64(model: Model, tokens: torch.Tensor, out: np.ndarray) -> None:
    """Write the last R logits of ``model`` for ``tokens`` (B, T) to ``out`` (B, R, V), float64."""
    rows = out.shape[1]
    with torch.no_grad():
        if not isinstance(model, gpt.GPT):
            out[...] = copy.deepcopy(model).double()(tokens)[:, -rows:].numpy()
            return
        position = torch.arange(tokens.shape[1])
        x = F.embedding(tokens, model.wte.weight).double()  # (B, T, C)
        x = x + F.embedding(position, model.wpe.weight).double()  # (B, T, C)
        for block in model.h:
            x = copy.deepcopy(block).double()(x)
        x = copy.deepcopy(model.ln_f).double()(x[:, -rows:])  # (B, R, C)
        for first in range(0, model.config.vocab_size, _HEAD_ROWS):
            part = model.wte.weight[first : first + _HEAD_ROWS].double()  # (v, C)
            out[..., first : first + _HEAD_ROWS] = F.linear(x, part).numpy()


def _steps(spec: JobSpec) -> int:
    """How many tokens a gated call decodes."""
    if spec.mode != "decode":
        return 0
    room = spec.geometry.block_size - spec.seq_len
    return min(room, GATED_STEPS, DECODE_STEPS)


def _rows(spec: JobSpec) -> int:
    """How many positions a gated call compares: every one, or the decoded ones and the prompt's."""
    return _steps(spec) + 1 if spec.mode == "decode" else spec.seq_len


def write(spec: JobSpec, model: Model, directory: Path) -> None:
    """Write the reference of every gated call under ``directory``."""
    for call in range(GATED_CALLS):
        tokens = gated_tokens(spec, call)
        shape = (len(tokens), _rows(spec), spec.geometry.vocab_size)
        out = np.lib.format.open_memmap(
            _path(directory, call), mode="w+", dtype=np.float64, shape=shape
        )
        with _path(directory, call).open("r+b") as file:
            # The file is sparse: on a full disk, writing through the map would kill the process.
            os.posix_fallocate(file.fileno(), 0, out.nbytes)
        logits_float64(model, tokens, out)
        out.flush()


def gate(
    spec: JobSpec,
    logits_of: Callable[[torch.Tensor], np.ndarray],
    directory: Path,
    calls: int = GATED_CALLS,
) -> Parity:
    """Call the backend on each gated input and compare it with the reference.

    Args:
        logits_of: tokens (B, T) to logits (B, R, V), any float type, on the host.
        directory: where ``write`` left the reference.
        calls: how many of the gated inputs to ask.
    """
    worst_abs = 0.0
    largest = 0.0
    agreed = total = 0
    for call in range(calls):
        got = logits_of(gated_tokens(spec, call))
        want = np.load(_path(directory, call), mmap_mode="r")
        if got.shape != want.shape:
            raise ValueError(f"logits have shape {got.shape}, the reference {want.shape}")
        for row_got, row_want in zip(
            got.reshape(-1, got.shape[-1]), want.reshape(-1, want.shape[-1]), strict=True
        ):  # one position at a time: no second copy of the logits
            error = float(np.max(np.abs(row_got.astype(np.float64) - row_want)))
            worst_abs = float(np.maximum(worst_abs, error))  # unlike max(), lets a NaN win
            largest = max(largest, float(np.max(np.abs(row_want))))
            agreed += int(np.argmax(row_got) == np.argmax(row_want))
            total += 1
    relative = _relative(worst_abs, largest)
    tolerance = TOLERANCE[spec.dtype]
    top1 = agreed / total
    return Parity(
        reference=NAME_WHOLE if isinstance(spec.geometry, BertConfig) else NAME,
        max_abs_err=_finite(worst_abs),
        max_rel_err=_finite(relative),
        top1_agreement=top1,
        passed=bool(relative <= tolerance and top1 >= TOP1_LEAST[spec.dtype]),
        tolerance=tolerance,
        calls=calls,
    )


def _relative(worst: float, largest: float) -> float:
    """The largest error as a share of the largest logit; of logits that are all 0, none is one."""
    if largest == 0:
        return 0.0 if worst == 0 else float("inf")
    return worst / largest


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _path(directory: Path, call: int) -> Path:
    return directory / f"reference-{call}.npy"
