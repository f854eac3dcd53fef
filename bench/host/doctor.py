"""What this machine has and lacks: one check is one function; a finding names its remedy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from bench.errors import BenchError
from bench.host.engine import docker, endpoint
from bench.host.store import Store

Level = Literal["ok", "note", "blocks"]

# gpt2 through five backends: a 0.5 GB model, twice, beside a compiler; two packed copies kept.
_LEAST_MEMORY_GIB = 4
_LEAST_DISK_GIB = 8


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
        where = endpoint.find_endpoint(os.environ)
        info = endpoint.connect(where, os.environ).info()
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
    if sys.version_info < (3, 10) or sys.version_info >= (3, 14):
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


def check_cpu() -> Finding:
    cores = len(os.sched_getaffinity(0))
    flags = _cpu_flags()
    vectors = [name for name in ("avx2", "fma", "avx512f", "amx_tile", "asimd") if name in flags]
    seen = f"{cores} cores, {' '.join(vectors) or 'no vector extension we know'}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        return Finding("cpu", "note", seen, "without AVX2 the schedules fall back", "")
    return Finding("cpu", "ok", seen)


def check_memory() -> Finding:
    total_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    seen = f"{total_gib:.1f} GiB"
    if total_gib < _LEAST_MEMORY_GIB:
        return Finding(
            "memory",
            "note",
            seen,
            f"gpt2 (124M) needs about {_LEAST_MEMORY_GIB} GiB",
            "invoke bench --model gpt-nano",
        )
    return Finding("memory", "ok", seen)


def check_disk() -> Finding:
    store = Store.of(os.environ)
    free_gib = shutil.disk_usage(store.root).free / 2**30
    seen = f"{free_gib:.0f} GiB free; artefact store {store.size_bytes() / 2**30:.1f} GiB"
    if free_gib < _LEAST_DISK_GIB:
        return Finding(
            "disk",
            "note",
            seen,
            f"an image and its build take about {_LEAST_DISK_GIB} GiB",
            "invoke clean; docker system prune",
        )
    return Finding("disk", "ok", seen)


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
    check_disk,
    check_memory,
    check_python,
    check_compiler,
    check_cpu,
    check_gpu,
)


def examine() -> list[Finding]:
    """Every check's finding. A check that breaks is itself a finding, not an end."""
    findings = []
    for check in CHECKS:
        try:
            findings.append(check())
        except (OSError, subprocess.SubprocessError, BenchError) as error:
            name = check.__name__.removeprefix("check_")
            findings.append(Finding(name, "note", f"could not be checked: {error}"))
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
