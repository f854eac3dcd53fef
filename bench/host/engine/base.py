"""The seam between the host and whatever runs a job: one small protocol.

Docker   a container on a Docker engine        docker.py
Local    a child process on this machine       local.py
Fake     a function of the caller's, for tests fake.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from bench.host.engine.limits import Limits

OnLine = Callable[[str], None]

Cause = Literal["exited", "signal", "out of memory", "timeout", "disk budget"]


@dataclass(frozen=True)
class Launch:
    """What an engine is given: a directory holding spec.json, and the bounds of the run.

    ``inputs`` are files and directories that the job reads and cannot write, by the names under
    which it asks for them (``bench.catalog.input_variable``). ``pin`` are the cores that it may
    use at all, None for any.
    """

    run_id: str
    run_dir: Path
    store: Path
    timeout_s: float
    gpu: bool = False
    inputs: Mapping[str, Path] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    pin: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Ending:
    """How the job's process ended. ``exit_code`` is None where it did not end by itself."""

    cause: Cause
    exit_code: int | None = None
    detail: str | None = None

    @property
    def clean(self) -> bool:
        return self.cause == "exited" and self.exit_code == 0

    def reason(self) -> str:
        """One line for the record: the cause, and the exit code or the signal where known."""
        if self.cause == "exited":
            return f"exit code {self.exit_code}" + (f": {self.detail}" if self.detail else "")
        return self.cause + (f": {self.detail}" if self.detail else "")


class Engine(Protocol):
    """Runs one job to its end and gives its output, line by line, as it comes."""

    name: str

    def run(self, launch: Launch, on_line: OnLine) -> Ending:
        """Run ``python -m bench.job`` on the spec in ``launch.run_dir``.

        Whatever happens, KeyboardInterrupt included, nothing of the job goes on when this
        returns or raises.

        Raises:
            UsageFault: the engine cannot start the job at all.
        """
