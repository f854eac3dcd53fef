"""What the job runs on, seen from inside: processor, memory, GPU, packages."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

from bench import limits
from bench.record import Environment

# What can change a number. The lock has the rest, and the image's labels name the lock.
# TVM calls its distribution "tvm" where v0.23.0 is built from source, and "apache-tvm" since.
_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "safetensors", "torch", "triton", "tvm")


def describe() -> Environment:
    """The environment of this process. Imports neither torch nor tvm: both take seconds."""
    gpu, driver = _gpu()
    return Environment(
        cpu=_cpu_model(),
        cores=limits.available_cores(),
        memory_mib=limits.memory_bytes() // 2**20,
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
