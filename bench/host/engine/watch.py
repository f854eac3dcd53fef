"""The watch over a job's disk budget, which nothing else bounds: a bind mount has no quota."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Callable
from dataclasses import replace

from bench.host import untrusted
from bench.host.engine.base import Ending, Launch
from bench.host.engine.limits import size

PERIOD_S = 1.0
# Looking takes at most one part in so many of a core's time, however much there is to look at.
_RARELY = 100


class DiskWatch:
    """Called again and again while a job runs; gives an ending once it is over its budget."""

    def __init__(self, launch: Launch, clock: Callable[[], float] = time.monotonic) -> None:
        self._launch = launch
        self._clock = clock
        self._next = 0.0
        self._store_bytes = untrusted.measure(launch.store).bytes

    def __call__(self) -> Ending | None:
        begun = self._clock()
        if begun < self._next:
            return None
        ending = self.look()
        ended = self._clock()
        self._next = ended + max(PERIOD_S, _RARELY * (ended - begun))
        return ending

    def told(self, ending: Ending) -> Ending:
        """``ending`` with a word on the largest file, if one met its limit and the job failed.

        Programs that do not ask for more than an error when they write are none the wiser.
        """
        bound = self._launch.limits.file or self._launch.limits.budget
        if ending.clean or "--limits" in (ending.detail or ""):
            return ending
        with contextlib.suppress(OSError):
            for entry in untrusted.walk(self._launch.run_dir):
                if stat.S_ISREG(entry.status.st_mode) and entry.status.st_size >= bound:
                    met = f"{entry.where!r} met the limit of {size(bound)} (--limits file=)"
                    detail = f"{ending.detail}; {met}" if ending.detail else met
                    return replace(ending, detail=detail)
        return ending

    def look(self) -> Ending | None:
        """The ending that is due now, if any. Other runs' growth of the store counts too."""
        limits, budget = self._launch.limits, self._launch.limits.budget
        run = untrusted.measure(self._launch.run_dir, most_bytes=budget, most_files=limits.names)
        if run.hidden:
            return Ending("disk budget", detail=f"what the run holds is hidden: {run.hidden}")
        if run.files > limits.names:
            return Ending("disk budget", detail=f"more than {limits.names} files in the run")
        grown = max(0, untrusted.measure(self._launch.store).bytes - self._store_bytes)
        if run.bytes + grown > budget:
            where = "the run directory" if run.bytes >= grown else "the artefact store"
            detail = f"over {size(budget)}, most of it in {where} (--limits disk=)"
            return Ending("disk budget", detail=detail)
        return None
