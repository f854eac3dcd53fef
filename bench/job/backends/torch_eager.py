"""PyTorch as it is: every operator on its own, by PyTorch's libraries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bench.errors import UsageFault
from bench.job import gpt
from bench.job.backends.base import Compiled, Prepared
from bench.record import JobSpec


class TorchReady:
    """A callable PyTorch model on ``device``."""

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], device: str) -> None:
        self._forward = forward
        self._device = torch.device(device)

    def stage(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.to(self._device)

    @torch.inference_mode()
    def run(self, staged: torch.Tensor) -> torch.Tensor:
        return self._forward(staged)

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def logits(self, output: torch.Tensor) -> np.ndarray:
        array: np.ndarray = output.cpu().numpy()
        return array


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

    def prepare(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Prepared:
        require_device(spec.device)
        ready = TorchReady(model.to(spec.device), spec.device)
        return Prepared(ready, compile_s=None, target=target_of(spec.device))

    def compile_only(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Compiled:
        raise no_artefact("torch-eager")


def no_artefact(backend: str) -> UsageFault:
    """The refusal of ``compile`` by a backend of PyTorch's."""
    return UsageFault(
        f"{backend} keeps no artefact to compile",
        hint="name TVM backends: --backends tvm-none,tvm-default,tvm-optimized",
    )


TORCH_EAGER = TorchEager()
