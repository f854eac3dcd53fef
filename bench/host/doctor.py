"""What this machine has and lacks: one check is one function; a finding names its remedy."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from bench import limits
from bench.catalog import STORE_VARIABLE
from bench.errors import BenchError
from bench.host.engine import docker, endpoint
from bench.host.store import Store

Level = Literal["ok", "note", "blocks"]

# gpt2 through five backends: a 0.5 GB model, twice, beside a compiler; two packed copies kept.
_LEAST_MEMORY_GIB = 4
_LEAST_STORE_GIB = 2
_LEAST_ENGINE_GIB = 8
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """What was seen, why it matters, and the command that mends it.

    ``blocks`` stops the local engine, the least that must work; a ``note`` only narrows what
    can be done.
    """

    check: str
    level: Level
    seen: str
    why: str = ""
    remedy: str = ""


def check_engine() -> Finding:
    try:
        where, info = _engine()
    except BenchError as error:
        return Finding(
            "engine",
            "note",
            error.message,
            "without a Docker engine jobs run in this environment (--engine local)",
            error.hint or "",
        )
    kind = "rootless, " if "name=rootless" in (info.get("SecurityOptions") or []) else ""
    return Finding("engine", "ok", f"{info['ServerVersion']} at {where.url} ({kind}{where.source})")


def check_buildx() -> Finding:
    try:
        command = ["docker", "buildx", "version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return Finding(
            "buildx",
            "note",
            "`docker buildx` does not answer",
            "images are built with it: the docker SDK cannot use BuildKit",
            "apt-get install docker-buildx (Debian, Ubuntu) or docker-buildx-plugin (docker.com)",
        )
    return Finding("buildx", "ok", done.stdout.strip())


def check_python() -> Finding:
    version = platform.python_version()
    major, minor = (int(part) for part in version.split(".")[:2])
    if not (3, 10) <= (major, minor) < (3, 14):
        return Finding(
            "python", "blocks", version, "3.10 to 3.13 are locked", "make setup PYTHON=python3.11"
        )
    missing = [n for n in ("torch", "tvm", "docker.client") if not _importable(n)]
    if missing:
        names = ", ".join(missing)
        return Finding(
            "python", "blocks", f"{version} without {names}", "jobs need them", "make setup"
        )
    return Finding("python", "ok", f"{version} at {sys.prefix}")


def check_compiler() -> Finding:
    path = shutil.which("g++")
    if path is None:
        return Finding(
            "g++",
            "blocks",
            "not found",
            "TVM links its libraries with it, torch.compile compiles with it",
            "apt-get install g++",
        )
    return Finding("g++", "ok", path)


def check_python_headers() -> Finding:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return Finding(
            "Python.h",
            "blocks",
            f"no {header}",
            "torch.compile compiles C++ that includes it",
            "apt-get install python3-dev",
        )
    return Finding("Python.h", "ok", str(header))


def check_cpu() -> Finding:
    flags = _cpu_flags()
    vectors = [name for name in ("avx2", "fma", "avx512f", "amx_tile", "asimd") if name in flags]
    known = " ".join(vectors) or "no vector extension we know"
    seen = f"{limits.available_cores()} cores for a job, {known}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        return Finding("cpu", "note", seen, "without AVX2 the schedules fall back", "")
    return Finding("cpu", "ok", seen)


def check_memory() -> Finding:
    gib = limits.memory_bytes() / _GIB
    seen = f"{gib:.1f} GiB for a job"
    if gib < _LEAST_MEMORY_GIB:
        return Finding(
            "memory",
            "note",
            seen,
            f"gpt2 (124M) needs about {_LEAST_MEMORY_GIB} GiB",
            "invoke bench --model gpt-nano",
        )
    return Finding("memory", "ok", seen)


def check_disk() -> Finding:
    """Room for compiled models; the store's folder need not be there yet, and is not made."""
    store = Store.of(os.environ)
    there = next(path for path in (store.root, *store.root.parents) if path.exists())
    free_gib = shutil.disk_usage(there).free / _GIB
    held_gib = store.size_bytes() / _GIB
    seen = f"{free_gib:.0f} GiB free; artefact store {held_gib:.1f} GiB at {store.root}"
    if free_gib < _LEAST_STORE_GIB:
        return Finding(
            "disk",
            "note",
            seen,
            f"compiled models take about {_LEAST_STORE_GIB} GiB",
            f"invoke clean; or name another place: {STORE_VARIABLE}=DIR",
        )
    return Finding("disk", "ok", seen)


def check_engine_disk() -> Finding:
    try:
        where, info = _engine()
    except BenchError:
        return Finding("engine's disk", "ok", "no engine, no images")
    root = Path(info.get("DockerRootDir") or "/nonexistent")
    # The same path on another machine, or in a virtual machine, says nothing.
    if not where.url.startswith("unix://") or not root.is_dir():
        return Finding("engine's disk", "ok", f"{root} is not on this machine")
    free_gib = shutil.disk_usage(root).free / _GIB
    seen = f"{free_gib:.0f} GiB free at {root}"
    if free_gib < _LEAST_ENGINE_GIB:
        return Finding(
            "engine's disk",
            "note",
            seen,
            f"an image and its build take about {_LEAST_ENGINE_GIB} GiB",
            "invoke clean --images; docker system prune",
        )
    return Finding("engine's disk", "ok", seen)


def check_gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "note", "no nvidia-smi: no NVIDIA driver here", "--gpu cannot run")
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    seen = " ".join((done.stdout or done.stderr).split())
    if done.returncode != 0:
        return Finding("gpu", "note", seen, "--gpu cannot run", "check the NVIDIA driver")
    try:
        refusal = docker.gpu_refusal(
            endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
        )
    except BenchError:
        return Finding("gpu", "ok", f"{seen}; no engine to give it to a container")
    if refusal is not None:
        return Finding(
            "gpu", "note", f"{seen}; the engine: {refusal}", "no container gets it", docker.GPU_HINT
        )
    return Finding("gpu", "ok", f"{seen}; containers get it")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_engine,
    check_buildx,
    check_engine_disk,
    check_disk,
    check_memory,
    check_python,
    check_compiler,
    check_python_headers,
    check_cpu,
    check_gpu,
)


def examine() -> list[Finding]:
    """Every check's finding. A check that breaks is itself a finding, not an end."""
    findings = []
    for check in CHECKS:
        try:
            findings.append(check())
        except Exception as error:  # whatever breaks, the other checks still tell
            name = check.__name__.removeprefix("check_")
            said = f"{type(error).__name__}: {error}"
            findings.append(Finding(name, "note", f"could not be checked: {said}"))
    return findings


def table(findings: list[Finding]) -> Table:
    """The findings for a terminal."""
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "check", "seen", "what to do"):
        built.add_column(name, overflow="fold")
    marks = {"ok": "[green]ok", "note": "[yellow]note", "blocks": "[red]blocks"}
    for finding in findings:
        todo = ". ".join(filter(None, [finding.why, finding.remedy]))
        built.add_row(marks[finding.level], finding.check, escape(finding.seen), escape(todo))
    return built


def as_data(findings: list[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON holds them."""
    return [asdict(finding) for finding in findings]


def _engine() -> tuple[endpoint.Endpoint, dict[str, Any]]:
    """The engine that answers, and what it tells of itself."""
    where = endpoint.find_endpoint(os.environ)
    with contextlib.closing(endpoint.connect(where, os.environ)) as client:
        return where, client.info()


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()
