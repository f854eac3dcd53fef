"""PyTorch's own compiler (Inductor), static shapes; compiled at its first call."""

from __future__ import annotations

import time

import torch

from bench.job import gpt
from bench.job.backends.base import Compiled, Prepared
from bench.job.backends.torch_eager import (
    TorchReady,
    no_artefact,
    require_device,
    target_of,
)
from bench.record import JobSpec


class TorchCompile:
    slow_by_nature = False

    def prepare(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Prepared:
        require_device(spec.device)
        compiled = torch.compile(model.to(spec.device), dynamic=False)
        ready = TorchReady(compiled, spec.device)
        begin = time.perf_counter()
        ready.run(ready.stage(tokens))
        ready.synchronize()
        return Prepared(
            ready,
            compile_s=time.perf_counter() - begin,
            compile_cached=False,
            target=target_of(spec.device),
        )

    def compile_only(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Compiled:
        raise no_artefact("torch-compile")


TORCH_COMPILE = TorchCompile()
