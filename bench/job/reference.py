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
import torch.nn as nn
import torch.nn.functional as F

from bench.catalog import (
    DECODE_STEPS,
    GATED_CALLS,
    GATED_STEPS,
    WEIGHT_DTYPES,
    BertConfig,
)
from bench.job import gpt, quantise
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
# The same where the weights alone are rounded. int8 puts a channel's weights on steps of
# max |w| / 127: off by a deviation of step / sqrt(12), and in a channel of 768 weights drawn from a
# normal distribution max |w| is some 3.3 deviations, so by 0.75% of one. A product's errors add as
# its terms do, so that it is off by 0.75% of itself. Layers add theirs: 2.1% of the largest logit
# was seen of GPT-2's twelve, 0.9% of gpt-nano's three. A bfloat16 is off by at most 0.4%, with a
# deviation of 0.17%: 0.44% was seen of GPT-2. Allowed is three times what was seen. Of seeded
# weights' first places int8 turns one in ten, and a decoding has fifteen: few need stay.
#
# That much room would hide a mistake in one layer: hence the same backend is held, by float32's
# tolerance, against the float64 reference of the very weights that it stores.
STORED_TOLERANCE = {"bfloat16": 1.5e-2, "int8": 6e-2}
STORED_TOP1_LEAST = {"bfloat16": 0.80, "int8": 0.60}
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


def logits_float64(
    model: Model, tokens: torch.Tensor, out: np.ndarray, stored: str | None = None
) -> None:
    """Write the last R logits of ``model`` for ``tokens`` (B, T) to ``out`` (B, R, V), float64.

    ``stored`` is the type that the matrices' weights are rounded to first, if any.
    """
    rows = out.shape[1]

    def whole(part: nn.Module) -> nn.Module:
        return quantise.widened(copy.deepcopy(part), stored)

    def matrix(rows: torch.Tensor) -> torch.Tensor:  # some rows of the embedding, (n, C)
        return rows.double() if stored is None else quantise.rounded(rows, stored)

    with torch.no_grad():
        if not isinstance(model, gpt.GPT):
            out[...] = whole(model)(tokens)[:, -rows:].numpy()
            return
        position = torch.arange(tokens.shape[1])
        x = matrix(model.wte.weight[tokens.flatten()]).view(*tokens.shape, -1)  # (B, T, C)
        x = x + F.embedding(position, model.wpe.weight).double()  # (B, T, C)
        for block in model.h:
            x = whole(block)(x)
        x = whole(model.ln_f)(x[:, -rows:])  # (B, R, C)
        for first in range(0, model.config.vocab_size, _HEAD_ROWS):
            part = matrix(model.wte.weight[first : first + _HEAD_ROWS])  # (v, C)
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
    """Write the reference of every gated call under ``directory``.

    Each type that one of the spec's backends stores its weights in has references of its own.
    """
    types = {WEIGHT_DTYPES[name] for name in spec.backends if name in WEIGHT_DTYPES}
    for call in range(GATED_CALLS):
        tokens = gated_tokens(spec, call)
        shape = (len(tokens), _rows(spec), spec.geometry.vocab_size)
        for stored in (None, *sorted(types)):
            path = _path(directory, call, stored)
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
            with path.open("r+b") as file:
                # The file is sparse: on a full disk, writing through the map would kill the
                # process.
                os.posix_fallocate(file.fileno(), 0, out.nbytes)
            logits_float64(model, tokens, out, stored)
            out.flush()


def gate(
    spec: JobSpec,
    logits_of: Callable[[torch.Tensor], np.ndarray],
    directory: Path,
    calls: int = GATED_CALLS,
    stored: str | None = None,
) -> Parity:
    """Call the backend on each gated input and compare it with the reference.

    Args:
        logits_of: tokens (B, T) to logits (B, R, V), any float type, on the host.
        directory: where ``write`` left the reference.
        calls: how many of the gated inputs to ask.
        stored: the type that the backend stores its weights in, where that is not the spec's. It
            has to agree with the reference of those weights too.
    """
    name = NAME_WHOLE if isinstance(spec.geometry, BertConfig) else NAME
    exact, least = TOLERANCE[spec.dtype], TOP1_LEAST[spec.dtype]
    against = [_Comparison(name, exact, least)]
    if stored is not None:
        wide, few = STORED_TOLERANCE[stored], STORED_TOP1_LEAST[stored]
        against = [_Comparison(name, wide, few), _Comparison(f"{name}, {stored}", exact, least)]
    for call in range(calls):
        got = logits_of(gated_tokens(spec, call))
        for comparison, kind in zip(against, (None, stored), strict=False):
            comparison.add(got, np.load(_path(directory, call, kind), mmap_mode="r"))
    found = [comparison.parity(calls) for comparison in against]
    if stored is None:
        return found[0]
    passed = all(parity.passed for parity in found)
    return found[0].model_copy(update={"of_stored": found[1], "passed": passed})


class _Comparison:
    """What a backend's logits come to beside one reference, call by call."""

    def __init__(self, name: str, tolerance: float, top1_least: float) -> None:
        self.name, self.tolerance, self.top1_least = name, tolerance, top1_least
        self.worst_abs = self.largest = 0.0
        self.agreed = self.total = 0

    def add(self, got: np.ndarray, want: np.ndarray) -> None:
        if got.shape != want.shape:
            raise ValueError(f"logits have shape {got.shape}, the reference {want.shape}")
        for row_got, row_want in zip(
            got.reshape(-1, got.shape[-1]), want.reshape(-1, want.shape[-1]), strict=True
        ):  # one position at a time: no second copy of the logits
            error = float(np.max(np.abs(row_got.astype(np.float64) - row_want)))
            self.worst_abs = float(np.maximum(self.worst_abs, error))  # unlike max(): a NaN wins
            self.largest = max(self.largest, float(np.max(np.abs(row_want))))
            self.agreed += int(np.argmax(row_got) == np.argmax(row_want))
            self.total += 1

    def parity(self, calls: int) -> Parity:
        relative = _relative(self.worst_abs, self.largest)
        top1 = self.agreed / self.total
        return Parity(
            reference=self.name,
            max_abs_err=_finite(self.worst_abs),
            max_rel_err=_finite(relative),
            top1_agreement=top1,
            passed=bool(relative <= self.tolerance and top1 >= self.top1_least),
            tolerance=self.tolerance,
            top1_least=self.top1_least,
            calls=calls,
        )


def _relative(worst: float, largest: float) -> float:
    """The largest error as a share of the largest logit; of logits that are all 0, none is one."""
    if largest == 0:
        return 0.0 if worst == 0 else float("inf")
    return worst / largest


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _path(directory: Path, call: int, stored: str | None) -> Path:
    return directory / f"reference{f'-{stored}' if stored else ''}-{call}.npy"
