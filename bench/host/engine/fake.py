"""An engine for tests: the job is a function that writes what it likes into the run directory."""

from __future__ import annotations

from collections.abc import Callable

from bench.host.engine.base import Ending, Launch, OnLine

Script = Callable[[Launch, OnLine], Ending]


class FakeEngine:
    """Runs ``script`` in place of a job and remembers every launch."""

    name = "fake"

    def __init__(self, script: Script) -> None:
        self._script = script
        self.launches: list[Launch] = []

    def run(self, launch: Launch, on_line: OnLine) -> Ending:
        self.launches.append(launch)
        return self._script(launch, on_line)
