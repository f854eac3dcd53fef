"""The one shape of a backend: programs in, something that can be called out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn as nn

from bench.job.profile.events import Recording
from bench.record import JobSpec


@dataclass(frozen=True)
class Program:
    """One function of a model, and inputs of the shapes that it is compiled for."""

    module: nn.Module
    example: tuple[torch.Tensor, ...]

    def to(self, dtype: str, device: str = "cpu") -> Program:
        """There, with weights and floating inputs of this type; ``module`` itself is changed."""
        kind = getattr(torch, dtype)
        return Program(
            self.module.to(device, kind),
            tuple(
                one.to(device, kind if one.is_floating_point() else one.dtype)
                for one in self.example
            ),
        )


Programs = Mapping[str, Program]


class Ready(Protocol):
    """Programs on their device. Calls may be asynchronous: ``synchronize`` waits."""

    def stage(self, tensor: torch.Tensor) -> Any:
        """A copy of ``tensor`` on the device, in the form that ``run`` takes."""

    def run(self, program: str, *staged: Any) -> tuple[Any, ...]:
        """One call of a program; what it gives stays on the device."""

    def view(self, value: Any) -> torch.Tensor:
        """What ``stage`` or ``run`` gave as a tensor of PyTorch's, the memory shared."""

    def synchronize(self) -> None:
        """Return when the device has done all that was asked."""


@runtime_checkable
class Streamed(Protocol):
    """What is ready and can tell where its calls are queued, too."""

    def cuda_stream(self) -> int | None:
        """The CUDA stream's handle, 0 for the legacy default one; None where it cannot be told."""


@runtime_checkable
class Recordable(Protocol):
    """What is ready and has a profiler, too. ``profiler`` is its name and version."""

    @property
    def profiler(self) -> str: ...

    def record(self, call: Callable[[], object], again: Callable[[], bool]) -> list[Recording]:
        """Calls of ``call``, which runs programs of this, with what ran in each.

        There is one, and another as long as ``again`` says so after it. Each is over when the
        device is done.
        """


@dataclass(frozen=True)
class Prepared:
    """A backend made ready. ``compile_s`` is None where nothing is compiled.

    ``tuning_s`` is what searching for its schedules took, None where none were searched for.
    """

    ready: Ready
    compile_s: float | None
    compile_cached: bool | None = None
    tuning_s: float | None = None
    target: dict[str, Any] | None = None
    artefact: str | None = None


@dataclass(frozen=True)
class Compiled:
    """Programs compiled and kept, not loaded: what ``invoke compile`` asks for."""

    artefact: str
    compile_s: float
    compile_cached: bool
    target: dict[str, Any]


class Backend(Protocol):
    """One way to run a model. ``dtypes`` is what it computes in, by the device that it runs on."""

    slow_by_nature: bool
    dtypes: Mapping[str, tuple[str, ...]]

    def prepare(self, spec: JobSpec, programs: Programs) -> Prepared:
        """Compile and load every program, with weights of ``spec.dtype``."""

    def compile_only(self, spec: JobSpec, programs: Programs) -> Compiled:
        """Compile and keep the artefacts.

        Raises:
            UsageFault: the backend keeps no artefacts.
        """
