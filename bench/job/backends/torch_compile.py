"""PyTorch's own compiler (Inductor), static shapes; compiled at its first call.

On a CPU its weights are frozen: constants, packed once for oneDNN's kernels. docs/modes.md has what
was measured, and why that and not "max-autotune".
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

import torch
from torch._inductor import config

from bench.catalog import DEVICES, DTYPES
from bench.job.backends.base import Compiled, Prepared, Programs
from bench.job.backends.torch_eager import (
    TorchReady,
    modules_for,
    no_artefact,
    target_of,
)
from bench.record import JobSpec


class TorchCompile:
    slow_by_nature = False
    dtypes: Mapping[str, tuple[str, ...]] = dict.fromkeys(DEVICES, DTYPES)

    def prepare(self, spec: JobSpec, programs: Programs) -> Prepared:
        modules = modules_for(spec, programs)
        frozen = spec.device == "cpu"
        compiled = {name: torch.compile(module, dynamic=False) for name, module in modules.items()}
        ready = TorchReady(compiled, spec.device)
        begin = time.perf_counter()
        # Not as torch.compile's own option: the tracer looks at the global one. It freezes only
        # what is compiled without gradients, as ``run`` is.
        with config.patch(freezing=True) if frozen else contextlib.nullcontext():
            for name, program in programs.items():
                ready.run(name, *program.to(spec.dtype, spec.device).example)
        ready.synchronize()
        return Prepared(
            ready,
            compile_s=time.perf_counter() - begin,
            compile_cached=False,
            target={**target_of(spec.device), "mode": "default", "freezing": frozen},
        )

    def compile_only(self, spec: JobSpec, programs: Programs) -> Compiled:
        raise no_artefact("torch-compile")


TORCH_COMPILE = TorchCompile()
