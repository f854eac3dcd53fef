"""Compile TVM and pack it: ``compile.py --source DIR --out DIR``, inside an image's build.

Configured by ``cmake/config.cmake``, which lies in the build folder already, and by what
docker/Dockerfile has in the environment: BUILD_TYPE, LLVM_CONFIG, CUDA_FROM (none, base or wheels),
CUDA_ARCH (``80;86``) and SOURCE_VERSION. Works on any project laid out as TVM is: a CMakeLists.txt
that reads ``build/config.cmake``, and a pyproject.toml for scikit-build-core beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

CUDA_HOME = Path("/usr/local/cuda")
# What one C++ compiler may take at TVM's largest files, in Debug, and what the linker takes.
JOB_BYTES = 2 * 2**30
SHOWN_LINES = 30
OUT_OF_MEMORY = ("Killed signal", "virtual memory exhausted", "ld terminated with signal 9")


class Fault(Exception):
    """An expected failure, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that compilers may take: what the kernel calls available, or less under a cgroup."""
    found = [
        int(line.split()[1]) * 1024
        for line in (proc / "meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    ]
    for limit in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            text = limit.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found)


def jobs_for(memory: int, cores: int) -> int:
    """How many compilers at once: one a core, as far as memory goes, and one at least."""
    return max(1, min(cores, memory // JOB_BYTES))


def jobs(asked: Path) -> int:
    """The number in ``asked`` where there is one, else by this machine's memory and cores.

    Raises:
        Fault: the file holds no positive number.
    """
    text = asked.read_text().strip() if asked.is_file() else ""
    if not text:
        return jobs_for(free_memory(), len(os.sched_getaffinity(0)))
    if not text.isdigit() or int(text) < 1:
        raise Fault(f"not a number of jobs: {text}", "--jobs 2")
    return int(text)


def definitions(environ: Mapping[str, str]) -> list[str]:
    """The ``-D`` options. All of them stay in CMakeCache.txt, where the contract reads them.

    Raises:
        Fault: a variable that is needed is not set.
    """
    llvm, build_type = environ.get("LLVM_CONFIG"), environ.get("BUILD_TYPE")
    if not llvm or not build_type:
        raise Fault("LLVM_CONFIG and BUILD_TYPE are not set", "they are build arguments")
    cuda = environ.get("CUDA_FROM", "none") != "none"
    values = {
        "CMAKE_BUILD_TYPE": build_type,
        "GPT_FRONTEND_BUILD_TYPE": build_type,
        "GPT_FRONTEND_LLVM_CONFIG": llvm,
        "GPT_FRONTEND_CUDA": "ON" if cuda else "OFF",
        "TVM_BUILD_PYTHON_MODULE": "ON",
    }
    if cuda:
        architectures = environ.get("CUDA_ARCH")
        if not architectures:
            raise Fault("CUDA_ARCH is not set", "--cuda-arch 80,86")
        values["GPT_FRONTEND_CUDA_ARCHITECTURES"] = architectures
        values["CMAKE_CUDA_ARCHITECTURES"] = architectures
        values["CMAKE_CUDA_COMPILER"] = str(CUDA_HOME / "bin" / "nvcc")
        values["CUDA_TOOLKIT_ROOT_DIR"] = str(CUDA_HOME)
    if version := environ.get("SOURCE_VERSION"):
        # From v0.26 on it is part of every object's command line, and scikit-build-core passes it
        # on its own: not said here too, packing would compile everything a second time.
        values["TVM_VERSION"] = version
    return [f"-D{name}={value}" for name, value in values.items()]


def lend_stub(stub: Path, toolkit: Path = CUDA_HOME) -> None:
    """Put the stub of libcuda where a toolkit has it and CMake looks for it.

    Not by its name in CMake's cache: FindCUDA forgets that when it first sees the toolkit. This
    folder of the toolkit is not the one that the image gets.
    """
    library, place = stub / "libcuda.so", toolkit / "lib64" / "stubs" / "libcuda.so"
    if library.is_file() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(library)


def run(command: Sequence[str], what: str, environ: Mapping[str, str], count: int) -> None:
    """Run a step; its output is passed on, and at the end the seconds it took.

    Raises:
        Fault: it failed; says so where memory ran out, which a compiler reports as being killed.
    """
    print(f"{what}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    last: deque[str] = deque(maxlen=SHOWN_LINES)
    process = subprocess.Popen(
        command, env=dict(environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None  # PIPE
    for line in process.stdout:
        print(line, end="", flush=True)
        last.append(line)
    code = process.wait()
    if code == 0:
        print(f"{what}: {time.monotonic() - start:.1f} s", flush=True)
        return
    if any(sign in line for line in last for sign in OUT_OF_MEMORY):
        raise Fault(
            f"{what}: out of memory with {count} compilers at once",
            f"--jobs {max(1, count // 2)}; what was compiled is kept in ccache",
        )
    raise Fault(f"{what}: exit code {code}", "the lines above say why")


def build(source: Path, out: Path, stub: Path, count: int, environ: Mapping[str, str]) -> None:
    """Configure, compile and pack: the wheel goes to ``out``, CMakeCache.txt to ``out/built``.

    Raises:
        Fault: a step failed.
    """
    folder = source / "build"
    told = {**environ, "SETUPTOOLS_SCM_PRETEND_VERSION": environ.get("SOURCE_VERSION", "")}
    # Python sets it for itself (PEP 538), and ccache would count it as part of what is compiled.
    told.pop("LC_CTYPE", None)
    told["PYTHONCOERCECLOCALE"] = "0"  # so that what packing runs does not set it again
    options = definitions(environ)
    lend_stub(stub)
    configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(folder), *options]
    run(configure, "configure", told, count)
    run(["ninja", "-C", str(folder), f"-j{count}"], "compile", told, count)
    if shutil.which("ccache"):
        subprocess.run(["ccache", "--show-stats"], env=dict(told), check=False)
    # As it was compiled: packing adds a temporary folder, of another name each time.
    built = out / "built"  # facts.py adds the rest
    built.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "CMakeCache.txt", built / "CMakeCache.txt")
    # scikit-build-core configures the same folder again, finds nothing to compile, and packs it.
    # Spelled out: pip of Debian 12 does not know -C yet.
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    wheel += ["--disable-pip-version-check", "--no-index", "--wheel-dir", str(out)]
    settings = {
        "build-dir": str(folder),
        "cmake.build-type": environ["BUILD_TYPE"],
        "install.strip": "false",
    }
    # From v0.26 on CUDA's runtime is a library of its own, and packed only where it is named.
    if beside := sorted(map(str, folder.glob("lib/libtvm_runtime_*.so"))):
        settings["cmake.define.TVM_PACKAGE_EXTRA_LIBS"] = ";".join(beside)
    wheel += [f"--config-settings={name}={value}" for name, value in settings.items()]
    wheel.append(str(source))
    before = time.time()
    run(wheel, "pack", told, count)
    again = sum(1 for file in folder.rglob("*.o") if file.stat().st_mtime > before)
    if again:  # not wrong, but an hour lost: its options differ from ours
        print(f"warning: packing compiled {again} objects again", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 with ``error:`` and ``hint:``."""
    parser = argparse.ArgumentParser(description="Compile TVM and pack it.")
    parser.add_argument("--source", type=Path, required=True, help="the checkout")
    parser.add_argument("--out", type=Path, required=True, help="where the wheel goes")
    parser.add_argument("--stub", type=Path, default=Path("/nonexistent"), help="a stub's folder")
    parser.add_argument("--jobs-file", type=Path, default=Path("/nonexistent"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        count = jobs(options.jobs_file)
        print(f"{count} compilers at once", flush=True)
        build(options.source, options.out, options.stub, count, os.environ)
    except (Fault, OSError) as error:
        hint = error.hint if isinstance(error, Fault) else "docker/Dockerfile calls this"
        print(f"error: {error}\nhint: {hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
