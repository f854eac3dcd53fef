"""PyTorch as it is: every operator on its own, by PyTorch's libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.catalog import DEVICES, DTYPES
from bench.errors import UsageFault
from bench.job.backends.base import Compiled, Prepared, Programs
from bench.job.profile import kineto
from bench.job.profile.events import Recording
from bench.record import JobSpec


class TorchReady:
    """Callable PyTorch modules on ``device``."""

    profiler = kineto.PROFILER

    def __init__(self, functions: Mapping[str, Callable[..., Any]], device: str) -> None:
        self._functions = functions
        self._device = torch.device(device)

    def stage(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, copy=True)

    @torch.inference_mode()
    def run(self, program: str, *staged: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self._functions[program](*staged)
        return out if isinstance(out, tuple) else (out,)

    def view(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def cuda_stream(self) -> int | None:
        if self._device.type != "cuda":
            return None
        handle: int = torch.cuda.current_stream(self._device).cuda_stream
        return handle

    def record(self, call: Callable[[], object], again: Callable[[], bool]) -> list[Recording]:
        return kineto.record(call, again, self._device)


def modules_for(spec: JobSpec, programs: Programs) -> dict[str, torch.nn.Module]:
    """Every program's module on the spec's device, in its type.

    Raises:
        UsageFault: the device is cuda and PyTorch sees none.
    """
    require_device(spec.device)
    return {name: one.to(spec.dtype, spec.device).module for name, one in programs.items()}


def require_device(device: str) -> None:
    """Raises UsageFault where ``device`` is cuda and PyTorch sees none."""
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = "sees no GPU" if built else "is a CPU build"
        raise UsageFault(
            f"PyTorch {torch.__version__} {why}",
            hint="check `nvidia-smi`, and that the CUDA build of torch is installed "
            "(`make setup TORCH=cuda`)",
        )


def target_of(device: str) -> dict[str, str]:
    """What PyTorch's kernels are chosen for: the CPU's vector extension, or the GPU."""
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return {"kind": "cuda", "arch": f"sm_{major}{minor}"}
    return {"kind": "cpu", "capability": torch.backends.cpu.get_cpu_capability()}


class TorchEager:
    slow_by_nature = False
    dtypes: Mapping[str, tuple[str, ...]] = dict.fromkeys(DEVICES, DTYPES)

    def prepare(self, spec: JobSpec, programs: Programs) -> Prepared:
        ready = TorchReady(modules_for(spec, programs), spec.device)
        return Prepared(ready, compile_s=None, target=target_of(spec.device))

    def compile_only(self, spec: JobSpec, programs: Programs) -> Compiled:
        raise no_artefact("torch-eager")


def no_artefact(backend: str) -> UsageFault:
    """The refusal of ``compile`` by a backend of PyTorch's."""
    return UsageFault(
        f"{backend} keeps no artefact to compile",
        hint="name TVM backends: --backends tvm-none,tvm-default,tvm-optimized",
    )


TORCH_EAGER = TorchEager()
