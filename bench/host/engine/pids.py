"""Whether a container met its limit of processes, where this machine's cgroups tell it.

The job sees no more of it than a fork that fails; the kernel counts the refusals.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.host.engine.base import Ending
from bench.host.engine.limits import Limits

CGROUPS = Path("/sys/fs/cgroup")


class PidsLimit:
    """Remembers how often the kernel refused a container a process: its cgroup goes with it."""

    def __init__(self, cgroups: Path = CGROUPS) -> None:
        self._cgroups = cgroups
        self._events: Path | None = None
        self.refusals = 0

    def find(self, container: Any) -> None:
        """Look for the cgroup of a container that has been started, or has ended again."""
        container.reload()
        pid = container.attrs["State"].get("Pid") or 0
        # The engine may be in a machine or a namespace of its own, where the number is another's.
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if container.id not in path or controllers not in ("", "pids"):
                    continue
                events = self._cgroups / controllers / path.lstrip("/") / "pids.events"
                if events.is_file():
                    self._events = events
        self.look()

    def look(self) -> None:
        """Read the count once more; what was seen before stays where there is none any more."""
        if self._events is None:
            return
        with contextlib.suppress(OSError):
            told = re.search(r"^max (\d+)$", self._events.read_text(), re.MULTILINE)
            self.refusals = int(told[1]) if told else self.refusals

    def told(self, ending: Ending, limits: Limits) -> Ending:
        """``ending`` with a word on the limit, if it was met and the job did not end well."""
        if ending.clean or not self.refusals:
            return ending
        met = f"it met the limit of {limits.pids} processes and threads (--limits pids=)"
        return replace(ending, detail=f"{ending.detail}; {met}" if ending.detail else met)
