"""CUDA's wheels laid out as NVIDIA's toolkit is: ``cuda.py WHEELS TOOLKIT STUB``.

The wheels install into ``nvidia/cuNN`` with programs, headers and libraries, but without three
things that a compiler expects: ``lib64``, library names without a version, and a libcuda to link
with. That one belongs to the driver; the stub made here has its name and its functions, each of
which answers CUDA_ERROR_STUB_LIBRARY, as NVIDIA's own stub does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

STUB_LIBRARY = 34  # CUDA_ERROR_STUB_LIBRARY in cuda.h
SONAME = "libcuda.so.1"


_WHEELS = "docker/locks/cuda.txt says which wheels"


class Fault(Exception):
    """An expected failure, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def lay_out(wheels: Path, toolkit: Path) -> None:
    """Move the one toolkit under ``wheels`` to ``toolkit`` and give its libraries their names.

    Raises:
        Fault: there is no nvcc among the wheels, or more than one.
    """
    compilers = sorted(wheels.glob("nvidia/cu*/bin/nvcc"))
    if len(compilers) != 1:
        raise Fault(f"{len(compilers)} nvcc in CUDA's wheels, where one is expected", _WHEELS)
    shutil.move(compilers[0].parents[1], toolkit)
    (toolkit / "lib64").symlink_to("lib")
    for library in sorted((toolkit / "lib").glob("*.so.*")):
        plain = library.with_name(library.name.partition(".so.")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(library.name)
    for program in (*(toolkit / "bin").iterdir(), *(toolkit / "nvvm" / "bin").glob("*")):
        program.chmod(0o755)  # not every wheel keeps the bit


def functions(header: str) -> list[str]:
    """The names of the driver's functions that ``cuda.h`` declares, sorted."""
    return sorted(set(re.findall(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(", header)))


def versioned(header: str) -> list[str]:
    """The names behind which ``cuda.h`` keeps newer versions of functions: ``cuMemAlloc_v2``."""
    return sorted(set(re.findall(r"\bcu[A-Z]\w*_v\d+\w*", header)))


def make_stub(header: Path, folder: Path) -> Path:
    """A libcuda.so to link with.

    Raises:
        Fault: the header declares no functions, or the compiler fails.
    """
    text = header.read_text(encoding="utf-8", errors="replace")
    names = sorted({*functions(text), *versioned(text)})
    if not names:
        raise Fault(
            f"{header} declares no functions",
            f"is it that of the wheel nvidia-cuda-runtime? {_WHEELS}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / "stub.c", folder / "libcuda.so"
    source.write_text("".join(f"int {name}(void) {{ return {STUB_LIBRARY}; }}\n" for name in names))
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}", "-o", str(library), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise Fault(
            "no stub of libcuda: gcc is not there",
            "the base image's apt step installs it (docker/Dockerfile): build with --no-cache",
        ) from None
    finally:
        source.unlink()
    if done.returncode != 0:
        raise Fault(
            f"no stub of libcuda: {done.stderr.strip()}",
            "the words are gcc's: a name in cuda.h that is no C, or no room (docker system df)",
        )
    return library


def main(arguments: list[str]) -> int:
    """The command line: three folders."""
    wheels, toolkit, stub = (Path(word) for word in arguments)
    try:
        lay_out(wheels, toolkit)
        make_stub(toolkit / "include" / "cuda.h", stub)
    except (Fault, OSError) as error:
        # What the kernel refuses here is nearly always room.
        hint = (
            error.hint
            if isinstance(error, Fault)
            else "is the engine's disk full? docker system df"
        )
        print(f"error: {error}\nhint: {hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
