"""PyTorch's own compiler (Inductor), static shapes; compiled at its first call."""

from __future__ import annotations

import time

import torch

from bench.catalog import DTYPES
from bench.job.backends.base import Compiled, Prepared, Programs
from bench.job.backends.torch_eager import (
    TorchReady,
    example_for,
    modules_for,
    no_artefact,
    target_of,
)
from bench.record import JobSpec


class TorchCompile:
    slow_by_nature = False
    dtypes = DTYPES

    def prepare(self, spec: JobSpec, programs: Programs) -> Prepared:
        modules = modules_for(spec, programs)
        compiled = {name: torch.compile(module, dynamic=False) for name, module in modules.items()}
        ready = TorchReady(compiled, spec.device)
        begin = time.perf_counter()
        for name, program in programs.items():
            ready.run(name, *example_for(spec, program))
        ready.synchronize()
        return Prepared(
            ready,
            compile_s=time.perf_counter() - begin,
            compile_cached=False,
            target=target_of(spec.device),
        )

    def compile_only(self, spec: JobSpec, programs: Programs) -> Compiled:
        raise no_artefact("torch-compile")


TORCH_COMPILE = TorchCompile()
