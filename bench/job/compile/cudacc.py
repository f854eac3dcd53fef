"""Which CUDA compiler TVM is told to use."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import JobFailed, UsageFault
from bench.job.compile import api
from bench.job.compile.target import CompileTarget

# TVM asks for its choice of compiler, and where that is, through the environment alone.
_MODE = "TVM_CUDA_COMPILE_MODE"
_TOOLKIT = "CUDA_PATH"
_NVRTC_OPTIONS = "TVM_CUDA_NVRTC_EXTRA_OPTS"
# How TVM begins to repeat what nvcc and NVRTC said, in every version.
_REFUSALS = ("Compilation error:", "NVRTC compilation failed")


def find_compiler() -> str:
    """ "nvcc" or "nvrtc": the first that is installed.

    Raises:
        UsageFault: neither is.
    """
    if shutil.which("nvcc"):
        return "nvcc"
    # find_spec of a submodule imports its parents: ask for them one at a time.
    if importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings"):
        return "nvrtc"
    raise UsageFault(
        "no CUDA compiler found: neither nvcc nor NVRTC",
        hint="install the CUDA toolkit and put nvcc on PATH, or: pip install 'apache-tvm[cuda]'",
    )


def check(executable: Any, target: CompileTarget) -> None:
    """Make machine code of any CUDA source that ``executable`` still carries, and drop it.

    So a kernel that the CUDA compiler refuses fails here and not on the machine with the GPU.

    Raises:
        JobFailed: the CUDA compiler refuses the source or the architecture.
    """
    if target.kind != "cuda":
        return
    for source in api.uncompiled_cuda(executable):
        try:
            api.cuda_machine_code(source, str(target.arch), os.environ[_MODE])
        except RuntimeError as error:
            raise _refused(error, target) from error


@contextlib.contextmanager
def refusals(target: CompileTarget) -> Iterator[None]:
    """What the CUDA compiler says while TVM generates code, as a failure of the job.

    TVM calls it then wherever its CUDA runtime is loaded: in v0.23.0 always, later where there
    is a driver.

    Raises:
        JobFailed: the CUDA compiler refuses the source or the architecture.
    """
    try:
        yield
    except RuntimeError as error:
        if target.kind != "cuda" or not any(mark in str(error) for mark in _REFUSALS):
            raise
        raise _refused(error, target) from error


def _refused(error: RuntimeError, target: CompileTarget) -> JobFailed:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return JobFailed(
        f"the CUDA compiler refuses the kernels: {(said or ['no reason given'])[-1]}",
        hint=f"check that this CUDA toolkit supports {target.arch}: nvcc --list-gpu-arch",
    )


@contextlib.contextmanager
def compiler_for(target: CompileTarget) -> Iterator[None]:
    """TVM set to a CUDA compiler that is there, if ``target`` needs one.

    Raises:
        UsageFault: it needs one and there is none.
    """
    if target.kind != "cuda":
        yield
        return
    wanted = {_MODE: os.environ.get(_MODE) or find_compiler()}
    root = wheel_toolkit() if wanted[_MODE] == "nvrtc" and _TOOLKIT not in os.environ else None
    if root is not None:
        libcxx = f"-I{shlex.quote(str(root / 'include' / 'cccl'))}"
        wanted[_TOOLKIT] = str(root)
        wanted[_NVRTC_OPTIONS] = f"{os.environ.get(_NVRTC_OPTIONS, '')} {libcxx}".strip()
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wheel_toolkit() -> Path | None:
    """Where NVIDIA's wheels have put CUDA's headers and libraries; None without them.

    TVM 0.27 looks for a toolkit that was installed with nvcc, and for libcu++ where that keeps
    it; the wheels have another layout. v0.23.0 cannot be told so, and takes them for a toolkit
    without libcu++: it needs nvcc.
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for root in sorted(Path(folder).glob("cu[0-9]*"), reverse=True):
            if (root / "include" / "cuda_runtime.h").is_file():
                return root
    return None
