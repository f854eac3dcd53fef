"""The state of the machine at one moment, as a record keeps it, and what lies between two.

Read in the job (``bench.job.system``), judged on the host (``bench.host.stats``). Whatever a
machine does not tell, or does not let us read, is None; that is no fault.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class GpuState(_State):
    """One GPU. ``throttled`` names what holds its clocks down besides idleness, () for nothing.

    ``energy_j`` counts from the driver's start; ``busy`` is the share of time with a kernel on it.
    """

    name: str
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    busy: float | None = None
    throttled: tuple[str, ...] | None = None


class SystemState(_State):
    """The machine at one moment. Counters count from its start, of all cores together.

    ``busy_s`` is CPU time spent at work, the kernel's included; ``own_s`` the part of it that
    was spent by the job's process and by those of its children that have ended; ``steal_s`` what
    the hypervisor gave to others while we wanted it. ``load_1m`` and ``load_15m`` are load
    averages, ``running`` the threads that wanted a core just then. ``allowed`` are the cores this
    process may use, as the kernel writes them (``0-3,8``). ``turbo`` is whether the processor may
    go over its base frequency. ``energy_j`` is by domain (``package-0``); a counter starts at
    nought again when it reaches ``energy_range_j``.
    """

    uptime_s: float | None = None
    cores: int | None = None
    allowed: str | None = None
    load_1m: float | None = None
    load_15m: float | None = None
    running: int | None = None
    busy_s: float | None = None
    own_s: float | None = None
    steal_s: float | None = None
    governors: tuple[str, ...] | None = None
    frequency_mhz: float | None = None
    turbo: bool | None = None
    smt: bool | None = None
    numa_nodes: int | None = None
    huge_pages: str | None = None
    temperature_c: float | None = None
    throttle_events: int | None = None
    energy_j: dict[str, float] | None = None
    energy_range_j: dict[str, float] | None = None
    gpus: tuple[GpuState, ...] = ()


def energy_j(before: SystemState, after: SystemState) -> dict[str, float]:
    """The joules that each domain and GPU used between two states; {} where nothing tells.

    A counter that went past its end once is followed; one that fell without a known range is
    left out, for its energy cannot be known.
    """
    used = {}
    starts, ends = before.energy_j or {}, after.energy_j or {}
    for domain in starts.keys() & ends.keys():
        spent = ends[domain] - starts[domain]
        if spent < 0:
            spent += (after.energy_range_j or {}).get(domain, 0.0)
        if spent >= 0:
            used[domain] = spent
    for index, (start, end) in enumerate(zip(before.gpus, after.gpus, strict=False)):
        if start.energy_j is not None and end.energy_j is not None:
            spent = end.energy_j - start.energy_j
            if spent >= 0:
                used[f"gpu-{index}"] = spent
    return dict(sorted(used.items()))
