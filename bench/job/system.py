"""Reads the machine's state from the kernel's files and from nvidia-smi. Sets nothing.

Every figure is by itself: one that is missing, unreadable or not as expected is None, and the
rest is read all the same. In a container the kernel's files tell of the whole machine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.job import nvml
from bench.system import GpuState, SystemState

ROOT = Path("/")
_TICK_HZ = os.sysconf("SC_CLK_TCK")
_CPUS = "sys/devices/system/cpu"
_TIMEOUT_S = 15.0

Smi = Callable[[list[str]], str]
"""Runs nvidia-smi with the arguments given: its output, or OSError where it cannot."""

Energies = Callable[[], list[float | None]]
"""The joules that each GPU has used, in nvidia-smi's order."""

# In the order of GpuState's fields; nvidia-smi says [N/A] to what a GPU does not have.
_GPU_FIELDS = (
    "name",
    "clocks.sm",
    "clocks.mem",
    "power.draw",
    "temperature.gpu",
    "utilization.gpu",
)
# Asked one by one, for a driver refuses a whole question over one name that it does not know.
_REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# NVML's bits. Idleness (0x1), clocks that somebody has set (0x2, 0x10, 0x100) hold nothing down.
_REASONS = {
    0x4: "its power cap",
    0x8: "a hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}


def read(
    root: Path = ROOT, smi: Smi | None = None, energies: Energies = nvml.energies_j
) -> SystemState:
    """The state now.

    ``root`` stands in for ``/``, ``smi`` for nvidia-smi and ``energies`` for its driver's
    library, in tests. It takes milliseconds, and where there is an NVIDIA GPU up to a second:
    not to be called between samples.
    """
    stat = _lines(root / "proc/stat")
    times = _cpu_times(stat)
    load = (_text(root / "proc/loadavg") or "").split()
    uptime = (_text(root / "proc/uptime") or "").split()
    energy, energy_range = _energy(root)
    return SystemState(
        uptime_s=_number(uptime[0]) if uptime else None,
        cores=sum(line.startswith("cpu") and line[3:4].isdigit() for line in stat) or None,
        allowed=_field(root / "proc/self/status", "Cpus_allowed_list"),
        load_1m=_number(load[0]) if len(load) > 2 else None,
        load_15m=_number(load[2]) if len(load) > 2 else None,
        running=_running(stat),
        busy_s=times[0] if times else None,
        steal_s=times[1] if times else None,
        own_s=_own(root),
        governors=_governors(root),
        frequency_mhz=_frequency(root),
        turbo=_turbo(root),
        smt=_flag(root / _CPUS / "smt/active"),
        numa_nodes=len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        huge_pages=_chosen(root / "sys/kernel/mm/transparent_hugepage/enabled"),
        temperature_c=_temperature(root),
        throttle_events=_throttle_events(root),
        energy_j=energy,
        energy_range_j=energy_range,
        gpus=_gpus(smi or _nvidia_smi, energies),
    )


def read_energy(root: Path = ROOT, energies: Energies = nvml.energies_j) -> SystemState:
    """The energy counters alone, as ``read`` has them: cheap enough to stand beside a measurement.

    The GPUs have no name here, only their counter.
    """
    energy, energy_range = _energy(root)
    gpus = tuple(GpuState(name="", energy_j=used) for used in energies())
    return SystemState(energy_j=energy, energy_range_j=energy_range, gpus=gpus)


def _cpu_times(stat: list[str]) -> tuple[float, float] | None:
    """(busy, stolen) seconds of all cores. Guests' time is in user's already."""
    line = next((line for line in stat if line.startswith("cpu ")), "")
    ticks = [_number(word) for word in line.split()[1:9]]
    if len(ticks) < 8 or None in ticks:
        return None
    user, nice, system, _, _, irq, softirq, steal = (tick or 0.0 for tick in ticks)
    return (user + nice + system + irq + softirq) / _TICK_HZ, steal / _TICK_HZ


def _running(stat: list[str]) -> int | None:
    value = next((line.split()[1:] for line in stat if line.startswith("procs_running ")), [])
    found = _number(value[0]) if value else None
    return int(found) if found is not None else None


def _own(root: Path) -> float | None:
    """CPU seconds of this process and of its children that it has waited for."""
    text = _text(root / "proc/self/stat") or ""
    # The name, in brackets, may itself hold blanks and brackets.
    words = text.rpartition(")")[2].split()
    ticks = [_number(word) for word in words[11:15]]
    if len(ticks) < 4 or None in ticks:
        return None
    return sum(tick or 0.0 for tick in ticks) / _TICK_HZ


def _governors(root: Path) -> tuple[str, ...] | None:
    files = (root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({name for file in files if (name := _text(file))})) or None


def _frequency(root: Path) -> float | None:
    """The cores' mean clock, MHz."""
    files = (root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [khz / 1e3 for file in files if (khz := _number(_text(file))) is not None]
    if not clocks:
        named = (line.split(":") for line in _lines(root / "proc/cpuinfo"))
        found = [_number(part[1]) for part in named if part[0].strip() == "cpu MHz" and part[1:]]
        clocks = [mhz for mhz in found if mhz is not None]
    return sum(clocks) / len(clocks) if clocks else None


def _turbo(root: Path) -> bool | None:
    off = _flag(root / _CPUS / "intel_pstate/no_turbo")
    return _flag(root / _CPUS / "cpufreq/boost") if off is None else not off


def _temperature(root: Path) -> float | None:
    """The hottest of the processor's sensors, degrees Celsius."""
    files = []
    for monitor in (root / "sys/class/hwmon").glob("hwmon*"):
        if _text(monitor / "name") in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            files += list(monitor.glob("temp*_input"))
    for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
        if _text(zone / "type") in ("x86_pkg_temp", "cpu-thermal", "cpu_thermal"):
            files.append(zone / "temp")
    found = [_number(_text(file)) for file in files]
    return max((value / 1e3 for value in found if value is not None), default=None)


def _throttle_events(root: Path) -> int | None:
    files = (root / _CPUS).glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [_number(_text(file)) for file in files]
    found = [int(count) for count in counts if count is not None]
    return sum(found) if found else None


def _energy(root: Path) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """Joules by package, and where each counter ends. Root alone may read them on most systems."""
    energy: dict[str, float] = {}
    ends: dict[str, float] = {}
    # One colon: a package, or the platform. What is inside a package has two, and is counted in it;
    # memory, which is not, is left out: few machines tell, and theirs would not compare.
    for domain in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = _text(domain / "name")
        used = _number(_text(domain / "energy_uj"))
        if domain.name.count(":") != 1 or name is None or used is None:
            continue
        energy[name] = used / 1e6
        end = _number(_text(domain / "max_energy_range_uj"))
        if end is not None:
            ends[name] = end / 1e6
    return energy or None, ends or None


def _gpus(smi: Smi, energies: Energies) -> tuple[GpuState, ...]:
    rows = _query(smi, ",".join(_GPU_FIELDS))
    reasons: list[list[str]] = []
    for field in _REASON_FIELDS if rows else ():
        reasons = _query(smi, field)
        if reasons:
            break
    used = energies() if rows else []
    found = []
    for index, row in enumerate(rows):
        if len(row) != len(_GPU_FIELDS):
            continue
        clock, memory_clock, power, temperature, busy = map(_number, row[1:])
        found.append(
            GpuState(
                name=row[0],
                clock_mhz=clock,
                memory_clock_mhz=memory_clock,
                power_w=power,
                temperature_c=temperature,
                energy_j=used[index] if index < len(used) else None,
                busy=None if busy is None else busy / 100,
                throttled=_reasons(reasons[index][0]) if index < len(reasons) else None,
            )
        )
    return tuple(found)


def _reasons(mask: str) -> tuple[str, ...] | None:
    try:
        bits = int(mask, 16)
    except ValueError:
        return None
    return tuple(name for bit, name in _REASONS.items() if bits & bit)


def _query(smi: Smi, fields: str) -> list[list[str]]:
    """A row a GPU, a cell a field; [] where nvidia-smi cannot tell."""
    try:
        said = smi([f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        [cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.strip()
    ]


def _nvidia_smi(arguments: list[str]) -> str:
    command = ["nvidia-smi", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # absent, for root alone, or a sensor that does not answer
        return None


def _lines(path: Path) -> list[str]:
    return (_text(path) or "").splitlines()


def _field(path: Path, name: str) -> str | None:
    parts = (line.partition(":") for line in _lines(path))
    return next((value.strip() for key, _, value in parts if key == name), None)


def _chosen(path: Path) -> str | None:
    """The word in square brackets, as the kernel marks which of several is in force."""
    _, found, rest = (_text(path) or "").partition("[")
    return rest.partition("]")[0] if found else None


def _flag(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(_text(path) or "")


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < 1e300 else None
