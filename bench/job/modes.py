"""What is run of a model, gated and timed: a whole forward pass, or decoding token by token.

Built on what a backend makes ready, so that every backend is asked for exactly the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from bench.catalog import DECODE_STEPS, GPTConfig
from bench.job import clock, decoder, gpt, measure, reference
from bench.job.backends.base import Program, Programs, Ready
from bench.job.decoder import Decoder
from bench.job.energy import Meter
from bench.job.measure import SamplingPlan
from bench.job.models import Model
from bench.job.warmup import Warmup
from bench.latency import Latency
from bench.record import JobSpec
from bench.roofline import Energy

FORWARD = "forward"
_TELLING = 4  # calls without which a warm-up says nothing: slow ones leave no time for more


class Work(Protocol):
    """A mode at work on one backend. ``warm_s`` is what its calls have taken so far, seconds."""

    warm_s: float

    def logits(self, tokens: torch.Tensor) -> np.ndarray:
        """The gated logits (B, R, V) for ``reference.gated_tokens``, float32."""

    def call(self) -> Callable[[], Any]:
        """One call, ready to be timed: what a sample of the latency is of."""

    def measure(self, plan: SamplingPlan) -> dict[str, Any]:
        """The fields of ``bench.record.Result`` that are timed."""


def programs(spec: JobSpec, model: Model) -> Programs:
    """What a backend compiles for the spec's mode."""
    if spec.mode == "decode":
        assert isinstance(model, gpt.GPT)
        return decoder.programs(model, spec.batch_size, spec.seq_len, _capacity(spec))
    return {FORWARD: Program(model, (reference.timed_tokens(spec),))}


def start(spec: JobSpec, ready: Ready) -> Work:
    """The spec's mode on a backend that is ready."""
    return Decode(spec, ready) if spec.mode == "decode" else Forward(spec, ready)


class Forward:
    """One call for all positions: a prefill, or an encoding."""

    def __init__(self, spec: JobSpec, ready: Ready) -> None:
        self._spec = spec
        self._ready = ready
        self.warm_s = 0.0

    def logits(self, tokens: torch.Tensor) -> np.ndarray:
        staged = self._ready.stage(tokens)
        begin = time.perf_counter()
        out = self._ready.run(FORWARD, staged)[0]
        self._ready.synchronize()
        self.warm_s += time.perf_counter() - begin
        return _on_host(self._ready, out)

    def call(self) -> Callable[[], Any]:
        staged = self._ready.stage(reference.timed_tokens(self._spec))
        return lambda: self._ready.run(FORWARD, staged)

    def measure(self, plan: SamplingPlan) -> dict[str, Any]:
        tokens = self._spec.batch_size * self._spec.seq_len
        latency, warmed, used = _sample(self._spec, self._ready, self.call(), plan, tokens)
        return {
            "latency_ms": latency,
            "tokens_per_s": tokens / (latency.median / 1e3),
            "energy": used,
            **_told(warmed),
        }


class Decode:
    """The prompt in one call, then a token a call. A sample of the latency is one token."""

    def __init__(self, spec: JobSpec, ready: Ready) -> None:
        config = spec.geometry
        assert isinstance(config, GPTConfig)
        self._spec = spec
        self._ready = ready
        self._decoder = Decoder(
            ready, config, spec.batch_size, _capacity(spec), getattr(torch, spec.dtype)
        )
        self.warm_s = 0.0

    def logits(self, tokens: torch.Tensor) -> np.ndarray:
        prompt = self._spec.seq_len
        begin = time.perf_counter()
        rows = [_on_host(self._ready, self._decoder.prefill(tokens[:, :prompt]))]
        for at in range(prompt, tokens.shape[1]):
            rows.append(_on_host(self._ready, self._decoder.step(tokens[:, at : at + 1])))
        self.warm_s += time.perf_counter() - begin
        return np.stack(rows, axis=1)

    def call(self) -> Callable[[], Any]:
        token = reference.timed_tokens(self._spec)[:, :1]

        def step() -> Any:
            if self._decoder.position == self._decoder.capacity:
                self._decoder.rewind(self._spec.seq_len)
            return self._decoder.step(token)

        return step

    def measure(self, plan: SamplingPlan) -> dict[str, Any]:
        tokens = reference.timed_tokens(self._spec)
        first, *_ = _sample(
            self._spec,
            self._ready,
            lambda: self._decoder.prefill(tokens),
            plan,
            tokens.numel(),
        )
        latency, warmed, used = _sample(
            self._spec, self._ready, self.call(), plan, self._spec.batch_size
        )
        return {
            "ttft_ms": first,
            "latency_ms": latency,
            "tokens_per_s": self._spec.batch_size / (latency.median / 1e3),
            "energy": used,
            **_told(warmed),
        }


def _capacity(spec: JobSpec) -> int:
    return min(spec.geometry.block_size, spec.seq_len + DECODE_STEPS)


def _sample(
    spec: JobSpec, ready: Ready, call: Callable[[], Any], plan: SamplingPlan, tokens: int
) -> tuple[Latency, Warmup, Energy | None]:
    """Samples of ``call``, which is of so many tokens, and the energy that they took."""
    beside = clock.beside(ready, spec.device)
    meter = Meter()
    try:
        taken = measure.sample(call, ready.synchronize, plan, meter.start, beside)
        used = meter.stop(len(taken.latency.samples), tokens)
        return taken.latency, taken.warmed, used
    finally:
        meter.close()


def _told(warmed: Warmup) -> dict[str, Any]:
    told: dict[str, Any] = {"warmup_calls": [warmed.calls]}
    if warmed.calls >= _TELLING and not warmed.stable:
        told["unstable"] = [
            f"warm-up: calls still became faster after {warmed.elapsed_s:.0f} s, {warmed.calls} of "
            "them; run it again on a quieter machine"
        ]
    return told


def _on_host(ready: Ready, value: Any) -> np.ndarray:
    array: np.ndarray = ready.view(value).to("cpu", torch.float32).numpy()
    return array
