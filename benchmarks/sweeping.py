"""A sweep of a benchmark here, and the records that it left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.errors import UsageFault
from bench.host import runs
from bench.host.sweep import measured
from bench.record import RunRecord

ROOT = Path(__file__).resolve().parent.parent


def sweep(file: Path, out: Path) -> int:
    """Measure what ``file`` asks for and ``out`` lacks; the exit status of `invoke sweep`."""
    command = [sys.executable, "-m", "invoke", "sweep", str(file), "--out", str(out)]
    return subprocess.call(command, cwd=ROOT)


def records(folders: Iterable[Path], place: Path, hint: str) -> list[RunRecord]:
    """The records of all runs in ``folders`` that came to their end, of each the oldest first.

    One that was cut short has fewer rounds than it was asked for; the sweep, once resumed, has
    another in its place.

    Raises:
        UsageFault: there is none, which is told of ``place`` with ``hint``; or none measured
            anything; or one is damaged.
    """
    found = [path for one in folders if one.is_dir() for path in sorted(runs.listed(one))]
    if not found:
        raise UsageFault(f"no run under {place}", hint=hint)
    read = [runs.read_record(path / runs.RECORD) for path in found]
    told = [
        record
        for record in read
        if any(row.latency_ms and measured.counts(row, record) for row in record.results)
    ]
    if not told:
        raise UsageFault(f"no run under {place} measured anything", hint="invoke results")
    return told


def told(fault: UsageFault) -> int:
    """Say what is wrong as the verbs do; gives the exit status."""
    print(f"error: {fault.message}\nhint: {fault.hint}", file=sys.stderr)
    return fault.exit_code
