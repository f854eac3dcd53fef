"""The one shape of a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bench.job import gpt
from bench.record import JobSpec


class Ready(Protocol):
    """A compiled model on its device. Calls may be asynchronous: ``synchronize`` waits."""

    def stage(self, tokens: torch.Tensor) -> Any:
        """Move token indices (B, T), int64, to the device; not part of the latency."""

    def run(self, staged: Any) -> Any:
        """One call; the result stays on the device."""

    def synchronize(self) -> None:
        """Return when the device has done all that was asked."""

    def logits(self, output: Any) -> np.ndarray:
        """What ``run`` returned, on the host: (B, T, V)."""


@dataclass(frozen=True)
class Prepared:
    """A backend made ready. ``compile_s`` is None where nothing is compiled."""

    ready: Ready
    compile_s: float | None
    compile_cached: bool | None = None
    target: dict[str, Any] | None = None
    artefact: str | None = None


@dataclass(frozen=True)
class Compiled:
    """A model compiled and kept, not loaded: what ``invoke compile`` asks for."""

    artefact: str
    compile_s: float
    compile_cached: bool
    target: dict[str, Any]


class Backend(Protocol):
    """One way to run a model."""

    slow_by_nature: bool

    def prepare(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Prepared:
        """Compile and load ``model`` for inputs shaped as ``tokens`` (B, T)."""

    def compile_only(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Compiled:
        """Compile and keep the artefact.

        Raises:
            UsageFault: the backend keeps no artefacts.
        """
