"""Small shared libraries, made by the compiler of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

PLAIN = 'extern "C" int answer() { return 42; }\n'
# As TVM v0.23's library stands with a driver: needed at load time, called only for a GPU.
NEEDS_DRIVER = """
extern "C" int cuInit(unsigned);
extern "C" int cuMemcpyHtoD_v2(unsigned long, const void*, unsigned long);
extern "C" int cudaHelper() { return 1; }
extern "C" int answer() { return 42; }
extern "C" int ask_driver() { return cuInit(0); }
extern "C" int copy() { return cuMemcpyHtoD_v2(0, 0, 0); }
"""


def library(path: Path, source: str = PLAIN, *options: str) -> Path:
    """``source`` (C++) compiled to the shared library ``path``, its SONAME the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = path.with_suffix(".cc")
    code.write_text(source)
    command = ["g++", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-Wl,--build-id=sha1"]
    subprocess.run([*command, str(code), *options, "-o", str(path)], check=True)
    return path


def needing(path: Path, name: str, source: str, provides: str) -> Path:
    """A library that needs another called ``name``, which is gone once it is linked."""
    other = library(path.parent / "gone" / name, provides)
    made = library(path, source, "-Wl,--no-as-needed", str(other))
    other.unlink()
    return made


DRIVER_FUNCTIONS = """
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuMemcpyHtoD_v2(unsigned long, const void*, unsigned long) { return 0; }
"""


def needing_driver(path: Path) -> Path:
    """A library that needs libcuda.so.1, as one linked against a stub does."""
    return needing(path, "libcuda.so.1", NEEDS_DRIVER, DRIVER_FUNCTIONS)
