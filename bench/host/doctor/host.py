"""The machine itself: Python, compiler, headers, processor, memory, disk, clock."""

from __future__ import annotations

import statistics

from bench.catalog import STORE_VARIABLE
from bench.errors import UsageFault
from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.scene import Scene
from bench.host.store import Store

GIB = 2**30
LEAST_MEMORY_GIB = 4  # gpt2 through five backends: a 0.5 GB model, twice, beside a compiler
LEAST_STORE_GIB = 2  # two packed copies of gpt2 kept
VECTORS = ("avx2", "fma", "avx512f", "amx_tile", "asimd")
# Signatures of packages and certificates bear some minutes, not hours.
CLOCK_LIMIT_S = 300


def check_disk(scene: Scene) -> Finding:
    """Room for compiled models; the store's folder need not be there yet, and is not made."""
    try:
        store = Store.of(scene.host.environ)
    except UsageFault as fault:
        return note("disk", fault.message, "the store's limit cannot be kept", fault.hint or "")
    free = scene.host.free_bytes(str(store.root))
    free_gib = (free or 0) / GIB
    held_gib = store.size_bytes() / GIB
    seen = f"{free_gib:.0f} GiB free; artefact store {held_gib:.1f} GiB at {store.root}"
    if free_gib < LEAST_STORE_GIB:
        return note(
            "disk",
            seen,
            f"compiled models take about {LEAST_STORE_GIB} GiB",
            f"invoke clean; or name another place: {STORE_VARIABLE}=DIR",
        )
    return ok("disk", seen)


def check_memory(scene: Scene) -> Finding:
    gib = scene.host.memory_bytes() / GIB
    seen = f"{gib:.1f} GiB for a job"
    if gib < LEAST_MEMORY_GIB:
        return note(
            "memory",
            seen,
            f"gpt2 (124M) needs about {LEAST_MEMORY_GIB} GiB",
            "invoke bench --model gpt-nano",
        )
    return ok("memory", seen)


def check_python(scene: Scene) -> Finding:
    version = scene.host.python_version()
    major, minor = (int(part) for part in version.split(".")[:2])
    if not (3, 10) <= (major, minor) < (3, 14):
        return Finding(
            "python", "blocks", version, "3.10 to 3.13 are locked", "make setup PYTHON=python3.11"
        )
    missing = [n for n in ("torch", "tvm", "docker.client") if not scene.host.importable(n)]
    if missing:
        names = ", ".join(missing)
        return Finding(
            "python", "blocks", f"{version} without {names}", "jobs need them", "make setup"
        )
    return ok("python", f"{version} at {scene.host.python_prefix()}")


def check_compiler(scene: Scene) -> Finding:
    path = scene.host.which("g++")
    if path is None:
        return Finding(
            "g++",
            "blocks",
            "not found",
            "TVM links its libraries with it, torch.compile compiles with it",
            "sudo apt-get install g++",
        )
    return ok("g++", path)


def check_python_headers(scene: Scene) -> Finding:
    header = f"{scene.host.include_dir()}/Python.h"
    if not scene.host.exists(header):
        return Finding(
            "Python.h",
            "blocks",
            f"no {header}",
            "torch.compile compiles C++ that includes it",
            "sudo apt-get install python3-dev",
        )
    return ok("Python.h", header)


def check_cpu(scene: Scene) -> Finding:
    flags = _cpu_flags(scene.host.read("/proc/cpuinfo") or "")
    vectors = [name for name in VECTORS if name in flags]
    known = " ".join(vectors) or "no vector extension we know"
    seen = f"{scene.host.cores()} cores for a job, {known}"
    if scene.host.architecture() == "x86_64" and "avx2" not in flags:
        return note(
            "cpu",
            seen,
            "without AVX2 the schedules fall back and no figure compares with the published ones",
            "run it on an x86-64 CPU of 2013 or later; in a virtual machine pass the host's CPU on",
        )
    return ok("cpu", seen)


def check_clock(scene: Scene) -> Finding:
    """The clock against the servers that answered, else against what the machine itself knows."""
    answers = [scene.answer(name) for name in scene.asked]
    offsets = [(a.at - a.date).total_seconds() for a in answers if a.at and a.date]
    here = scene.host.now().strftime("%Y-%m-%d %H:%M UTC")
    if offsets:
        # One server's clock, or a cache's, may be wrong too.
        off = statistics.median_low(sorted(offsets, key=abs))
        if abs(off) > CLOCK_LIMIT_S:
            return _wrong_clock(scene, f"{here}, {_amount(off)} what the servers say")
        return ok("clock", f"{here}, within {CLOCK_LIMIT_S // 60} minutes of the servers'")
    commit = scene.host.run(["git", "log", "-1", "--format=%ct"]).out.strip()
    behind = int(commit) - scene.host.now().timestamp() if commit.isdigit() else 0
    if behind > CLOCK_LIMIT_S:
        return _wrong_clock(scene, f"{here}, {_amount(-behind)} this project's newest commit")
    sync = scene.host.run(["timedatectl", "show", "--property=NTPSynchronized"]).out.strip()
    if sync == "NTPSynchronized=no":
        return note(
            "clock",
            f"{here}, not kept by the network, and no server to compare with",
            "certificates and apt's signatures are judged by it",
            _clock_remedy(scene),
        )
    told = "kept by the network" if sync.endswith("=yes") else "no server to compare with"
    return ok("clock", f"{here}, {told}")


def _wrong_clock(scene: Scene, seen: str) -> Finding:
    return note(
        "clock",
        seen,
        "certificates count as expired or not yet valid, apt says `Release file is not valid yet`",
        _clock_remedy(scene),
    )


def _clock_remedy(scene: Scene) -> str:
    if scene.wsl:
        return "sudo hwclock --hctosys (WSL's clock stops while Windows sleeps); or wsl --shutdown"
    return "sudo timedatectl set-ntp true; or sudo date --utc --set='YYYY-MM-DD HH:MM'"


def _amount(seconds: float) -> str:
    minutes = round(abs(seconds) / 60)
    size = f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return f"{size} {'ahead of' if seconds > 0 else 'behind'}"


def _cpu_flags(cpuinfo: str) -> set[str]:
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()
