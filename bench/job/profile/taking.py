"""When a backend is profiled, for how long, and what happens where its profiler fails."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench.job.backends.base import Recordable
from bench.job.modes import Work
from bench.job.profile import MEASURED, table, trace
from bench.job.profile.events import Recording
from bench.record import JobSpec, StepReport

_FOR_S = 2.0
_MOST = 6  # calls, of which the first is thrown away: a profiler's first call is slower


def added(
    report: StepReport, spec: JobSpec, ready: object, work: Work, scratch: Path
) -> StepReport:
    """``report``, which has a measured row, with where the time of a call goes.

    A profiler that raises takes nothing away: the log has the traceback. Against one that ends
    the process ``report`` lies in ``scratch`` while it runs, and is left there.
    """
    assert report.result is not None
    name = report.result.backend
    if not isinstance(ready, Recordable):
        print(f"{name} has no profiler: its row says nothing of operators", flush=True)
        return report
    aside = scratch / f"{name}{MEASURED}"
    partial = scratch / f"{name}{MEASURED}.partial"
    partial.write_text(report.model_dump_json())
    partial.rename(aside)
    try:
        recordings = take(ready, work.call())
        operators = table.of(recordings, ready.profiler)
        if spec.operators == "trace":
            pid = spec.backends.index(name) + 1
            trace.add(scratch.parent, scratch, pid, name, recordings)
    except Exception:  # whatever a profiler runs into, what was measured is kept; the log has it
        traceback.print_exc()
        print(f"{name}: the profiler failed; the row is kept without operators", flush=True)
    else:
        result = report.result.model_copy(update={"operators": operators})
        report = report.model_copy(update={"result": result})
    aside.unlink()
    return report


def take(ready: Recordable, call: Callable[[], object]) -> list[Recording]:
    """Up to five calls, within about 2 s, but one at least, however long it takes."""
    stop = time.perf_counter() + _FOR_S
    done = 0

    def again() -> bool:
        nonlocal done
        done += 1
        return done < _MOST and time.perf_counter() < stop

    recordings = ready.record(call, again)
    return recordings[1:] or recordings
