"""Which host process a run or a container belongs to, so that what a dead one left is known."""

from __future__ import annotations

import os
from pathlib import Path


def mine() -> str:
    """This process, told from any later one of the same pid: ``pid:start``, in ticks."""
    return f"{os.getpid()}:{_start('self')}"


def alive(owner: str) -> bool:
    """Whether the process that ``mine`` named is still there."""
    pid, _, start = owner.partition(":")
    try:
        return pid.isdigit() and _start(pid) == start
    except (OSError, IndexError):
        return False


def _start(pid: str) -> str:
    # Field 22 of stat; the name in field 2 may hold spaces and brackets of its own.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
