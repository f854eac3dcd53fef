"""What this process may use of the machine: the kernel's figures, under the cgroups' limits.

Shared by both sides, so that doctor promises what a job then gets. Plain standard library.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CPUS = Path("/sys/devices/system/cpu")


def available_cores(cgroups: Path = CGROUPS) -> int:
    """The cores this process may run on, or fewer where a cgroup quota allows less time."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in _groups(cgroups) if (quota := _quota(group)) is not None]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def memory_bytes(cgroups: Path = CGROUPS) -> int:
    """The memory this process may use: the machine's, or less where a cgroup allows less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = [group / "memory.max" for group in _groups(cgroups)]
    for path in (*names, cgroups / "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # absent, or the word "max"
            continue
    return total


def cache_bytes(cpus: Path = CPUS) -> int:
    """The last level of cache of the cores this process may run on, all of its parts together.

    0 where the kernel does not tell. A guest's share of it may be less than it is told.
    """
    parts: dict[tuple[int, str], int] = {}
    for core in os.sched_getaffinity(0):
        for index in (cpus / f"cpu{core}/cache").glob("index[0-9]*"):
            try:
                level = int((index / "level").read_text())
                size = (index / "size").read_text().strip()
                whose = (index / "shared_cpu_list").read_text().strip()
                parts[level, whose] = int(size.removesuffix("K")) * 1024  # the kernel's only unit
            except (OSError, ValueError):
                continue
    last = max((level for level, _ in parts), default=0)
    return sum(size for (level, _), size in parts.items() if level == last)


def _groups(cgroups: Path) -> Iterator[Path]:
    """This process's cgroup and those around it. In a container the outermost is its own."""
    group = cgroups
    yield group
    for name in Path(_own_group()).parts[1:]:
        group = group / name
        yield group


def _own_group() -> str:
    """The path of this process's cgroup, as the kernel tells it ("/" where there is none)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _quota(group: Path) -> float | None:
    """CPU time a second that the cgroup grants, in seconds; None without a limit."""
    try:
        if (group / "cpu.max").exists():  # version 2
            quota, period = (group / "cpu.max").read_text().split()
        else:  # version 1
            quota = (group / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu/cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
