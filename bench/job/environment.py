"""What the job runs on, seen from inside: processor, memory, GPU, packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from bench.job.compile.target import available_cores
from bench.record import Environment

# What can change a number. The lock has the rest, and the image's labels name the lock.
_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "safetensors", "torch", "triton")


def describe() -> Environment:
    """The environment of this process. Imports neither torch nor tvm: both take seconds."""
    gpu, driver = _gpu()
    return Environment(
        cpu=_cpu_model(),
        cores=available_cores(),
        memory_mib=_memory_mib(),
        gpu=gpu,
        driver=driver,
        kernel=platform.release(),
        python=platform.python_version(),
        packages=_packages(),
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_mib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # absent, or the word "max"
            continue
    return total // 2**20


def _gpu() -> tuple[str | None, str | None]:
    """(names, driver version) as nvidia-smi tells, or (None, None)."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    rows = [line.rsplit(",", 1) for line in done.stdout.strip().splitlines() if "," in line]
    if not rows:
        return None, None
    return "; ".join(name.strip() for name, _ in rows), rows[0][1].strip()
