"""Which host process a run or a container belongs to, so that what a dead one left is known."""

from __future__ import annotations

import os
from pathlib import Path


def mine() -> str:
    """This process, told from any later one of the same pid: ``pid:start:namespace``, in ticks.

    Hosts in containers of their own may share an engine or a directory of runs; the namespace is
    that of the pid, and tells whose numbers can be looked up here.
    """
    return f"{os.getpid()}:{_start('self')}:{_namespace()}"


def alive(owner: str) -> bool:
    """Whether the process that ``mine`` named is still there.

    One of another namespace cannot be looked up: it passes for alive, or its work would be lost.
    """
    pid, start, *where = f"{owner}::".split(":")
    if where[0] not in ("", _namespace()):
        return True
    try:
        # A zombie is dead, however long its parent leaves it there.
        return pid.isdigit() and _start(pid) == start and _fields(pid)[0] not in "ZX"
    except (OSError, IndexError):
        return False


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _start(pid: str) -> str:
    return _fields(pid)[19]  # field 22 of stat


def _fields(pid: str) -> list[str]:
    """Those of stat from the third on; the name in the second may hold spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
