"""A module to a shared library with its parameters, and such a library loaded again."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.errors import UsageFault
from bench.job.compile import api, cudacc, memory, names, rewrite
from bench.job.compile.importer import import_module
from bench.job.compile.library import tvm_build_id, tvm_library_path
from bench.job.compile.pipelines import pipeline as find_pipeline
from bench.job.compile.target import CompileTarget
from bench.job.compile.tasks import TraceJson
from bench.limits import available_cores

__all__ = [
    "Compiled",
    "Loaded",
    "Parameters",
    "compile_module",
    "load",
    "sources_digest",
    "tvm_build_id",
    "tvm_library_path",
    "tvm_version",
]


# What a model may compute in, by the kind of target: the CPU's kernels are float32's.
FLOATS = {"llvm": ("float32",), "cuda": ("float32", "float16")}


@dataclass(frozen=True)
class Compiled:
    """Code, and the parameters in the layout that the code expects them in.

    Those that are as the module has them lie in the memory of its own: to be read only.
    ``compile_s`` is the time from the PyTorch module to machine code that is not linked yet, in
    seconds.
    """

    executable: Any  # tvm.relax.VMExecutable
    params: list[np.ndarray]
    compile_s: float

    def export_library(self, path: Path) -> None:
        """Write the code as a shared library.

        Raises:
            UsageFault: there is no C++ compiler to link it with.
        """
        if api.cxx_compiler() is None:
            raise UsageFault(
                "no C++ compiler found to link the library with",
                hint="install one, as with: apt-get install g++",
            )
        self.executable.export_library(str(path))


def compile_module(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    pipeline: str,
    target: CompileTarget,
    tuned: Mapping[str, TraceJson] | None = None,
) -> Compiled:
    """``module`` compiled for the shapes of ``example``; ``tuned`` is what a search found for it.

    Raises:
        UsageFault: unknown pipeline, a type that is not supported, or a GPU target without
            a CUDA compiler.
        JobFailed: the CUDA compiler refuses the kernels.
    """
    chosen = find_pipeline(pipeline)
    api.plan_threads(target.cores)
    start = time.perf_counter()
    with _uncollected(), cudacc.compiler_for(target), ThreadPoolExecutor(1) as beside:
        imported = import_module(module, example, FLOATS[target.kind])
        lowered = chosen.apply(imported.mod, target, tuned)
        # LLVM has one core, and holds no lock of Python's meanwhile.
        params = beside.submit(rewrite.pack_params, lowered, imported.params)
        with cudacc.refusals(target):
            executable = api.compile_lowered(lowered, target.tvm())
        cudacc.check(executable, target)
        return Compiled(executable, params.result(), time.perf_counter() - start)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within, nobody looks for cycles: that walks all of PyTorch, and finds next to none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Parameters:
    """A model's parameters on a device; several functions may share them."""

    def __init__(self, params: Sequence[np.ndarray], device: str) -> None:
        """``params`` copied to ``device`` ("cpu" or "cuda").

        Raises:
            UsageFault: TVM sees no such device.
        """
        self.device = api.device(device)
        if not self.device.exist:
            raise UsageFault(f"TVM sees no '{device}' device", hint="run: invoke doctor")
        if device == "cpu":
            self.tensors = memory.block(params)
        else:
            self.tensors = [api.tensor(param, self.device) for param in params]


class Loaded:
    """A compiled function of a model, beside its parameters."""

    def __init__(
        self, module: Any, params: Parameters, instrument: Callable[..., None] | None = None
    ) -> None:
        self.params = params
        self._module = module
        self._main = api.virtual_machine(module, params.device, instrument)["main"]

    def instrumented(self, instrument: Callable[..., None]) -> Loaded:
        """The same function on a machine that tells ``instrument`` of every call that it makes."""
        return Loaded(self._module, self.params, instrument)

    def prepare(self, array: np.ndarray) -> Any:
        """A copy of ``array`` on the device."""
        return api.tensor(array, self.params.device)

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """What the function gives, on the device, for inputs that ``prepare`` returned.

        On a GPU the call returns before the work is done: see ``synchronize``.
        """
        out = self._main(*inputs, *self.params.tensors)
        return (out,) if hasattr(out, "numpy") else tuple(out)

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        self.params.device.sync()

    def cuda_stream(self) -> int | None:
        """The stream that calls are queued on; None on a CPU, or where this TVM cannot tell."""
        return names.cuda_stream(self.params.device)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The first of what the function gives for these arrays, on the host."""
        out = self.run(*map(self.prepare, arrays))
        self.synchronize()
        first: np.ndarray = out[0].numpy()
        return first


def load(library: Path, params: Parameters) -> Loaded:
    """The function in ``library`` on the parameters' device.

    CPU kernels run on all cores that this process may use; ``TVM_NUM_THREADS``, if set, wins.

    Raises:
        UsageFault: the library is missing.
    """
    if not library.is_file():
        raise UsageFault(f"no library at '{library}'", hint="compile the model first")
    api.plan_threads(available_cores())
    return Loaded(api.load_library(str(library)), params)


def tvm_version() -> str:
    """TVM's own version."""
    return api.VERSION


def sources_digest() -> str:
    """The sha256 of everything in this project that decides what code and parameters come out."""
    job = Path(__file__).resolve().parent.parent
    models = [job / name for name in ("gpt.py", "cached.py", "bert.py", "repeated.py")]
    # Stored beside the code are the parameters: these read them from a checkpoint and round them.
    loaders = [
        job / "quantise.py",
        job / "backends" / "base.py",  # Program.to
        job / "weights.py",
        job / "tensors.py",
        job.parent / "checkpoint.py",
    ]
    files = sorted([*(job / "compile").rglob("*.py"), *models, *loaders])
    digest = hashlib.sha256()
    for file in files:
        digest.update(
            f"{file.relative_to(job.parent).as_posix()}\0{file.stat().st_size}\0".encode()
        )
        digest.update(file.read_bytes())
    return digest.hexdigest()
