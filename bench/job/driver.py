"""A stand-in for the NVIDIA driver's library, for the CPU half of a CUDA build of TVM.

TVM up to v0.23 links its one library against ``libcuda.so.1``, which only a driver brings, so that
without one ``import tvm`` fails before the CPU can be used. Where that is so, a library of that
name is made at run time, of the functions that TVM's library itself leaves undefined: each says
CUDA_ERROR_STUB_LIBRARY. It is loaded and its file is gone at once: none is ever in an image,
where it would hide the real one. The newer wheels load their CUDA half apart and need no stand-in.

Call ``ensure`` before tvm is imported. Plain standard library.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.build import elf
from bench.errors import UsageFault

DRIVER = "libcuda.so.1"
STUB_ERROR = 34  # CUDA_ERROR_STUB_LIBRARY, cuda.h from 11.1 on
_COMPILERS = ("g++", "gcc", "c++", "cc", "clang")
_FUNCTION = re.compile(r"cu[A-Z]\w*")
# What the CUDA runtime asks a driver for when it is first called: it too finds the stand-in.
_RUNTIME_ASKS = ("cuInit", "cuDriverGetVersion", "cuGetProcAddress", "cuGetProcAddress_v2")
# What is loaded at `import tvm`: v0.23's one library; 0.27's three. libtvm_runtime_cuda.so is not
# among them: tvm does without it where it does not load, unless one of these needs it, as the
# third does where TVM was compiled with CUDA.
_NAMES = ("libtvm.so", "libtvm_compiler.so", "libtvm_runtime.so", "libtvm_runtime_extra.so")


def ensure(libraries: Iterable[Path] | None = None) -> bool:
    """Make sure that ``libraries`` load on a machine without a driver; True if that took a stub.

    Does nothing where none of them needs the driver, or where the driver is there. The work is
    done once a process. ``libraries`` are those that Python will load for tvm, if not given.

    Raises:
        UsageFault: a stand-in is needed and there is no compiler to make it with.
    """
    return _ensure(tuple(tvm_libraries() if libraries is None else libraries))


def tvm_libraries() -> list[Path]:
    """The libraries that ``import tvm`` loads, found without importing it; empty without tvm."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for name in _NAMES:
            if name not in found and (folder / name).is_file():
                found[name] = folder / name
    # Where there is a library with the compiler in it, tvm does not load v0.23's small one.
    if "libtvm.so" in found:
        found.pop("libtvm_runtime.so", None)
    return list(found.values())


def _folders() -> Iterator[Path]:
    """Where tvm looks, in its order: TVM_LIBRARY_PATH, beside its modules, a build in its tree."""
    if os.environ.get("TVM_LIBRARY_PATH"):
        yield Path(os.environ["TVM_LIBRARY_PATH"])
    spec = importlib.util.find_spec("tvm")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        package = Path(place)
        yield from (package, package / "lib", package.parents[1] / "build")
        yield package.parents[1] / "build" / "lib"


@functools.cache
def _ensure(libraries: tuple[Path, ...]) -> bool:
    needing = [summary for summary in _with_siblings(libraries) if DRIVER in summary.needed]
    if not needing or _loads(DRIVER):
        return False
    undefined = {name for summary in needing for name in summary.undefined}
    functions = sorted({*filter(_FUNCTION.fullmatch, undefined), *_RUNTIME_ASKS})
    with tempfile.TemporaryDirectory(prefix="gpt-frontend-driver-") as folder:
        stub = _compile(functions, Path(folder))
        # By its SONAME the loader then takes it for the driver wherever that is needed.
        ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)
    return True


def _with_siblings(libraries: tuple[Path, ...]) -> Iterator[elf.Summary]:
    """The libraries, and those beside them that they need in turn."""
    waiting, seen = list(libraries), set(libraries)
    while waiting:
        path = waiting.pop()
        summary = elf.read(path)
        yield summary
        beside = {path.with_name(name) for name in summary.needed} - seen
        seen |= beside
        waiting += sorted(other for other in beside if other.is_file())


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _compile(functions: list[str], folder: Path) -> Path:
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise UsageFault(
            f"TVM's library needs {DRIVER}, and here is neither an NVIDIA driver nor a compiler "
            "to make a stand-in with",
            hint="apt-get install g++; or give the container a GPU: --gpu",
        )
    source, stub = folder / "driver.c", folder / DRIVER
    lines = [f"int {name}(void) {{ return {STUB_ERROR}; }}" for name in functions]
    source.write_text("\n".join(["/* a stand-in for the driver */", *lines, ""]))
    command = [compiler, "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{DRIVER}"]
    done = subprocess.run(
        [*command, "-o", str(stub), str(source)], capture_output=True, text=True, cwd=folder
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageFault(
            f"{Path(compiler).name} cannot make a stand-in for {DRIVER}: {said}",
            hint="is /tmp writable, and g++ whole? or give the container a GPU: --gpu",
        )
    return stub
