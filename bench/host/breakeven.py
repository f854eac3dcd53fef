"""After how many calls what was spent before the first one has paid for itself."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from bench.catalog import AFTER, TUNED
from bench.host import stats
from bench.record import Result, RunRecord

COLD = "torch-compile"  # whose cold start is what a user would have paid otherwise


@dataclass(frozen=True)
class Cost:
    """What a backend costs: ``spent_s`` once (compiling, tuning), ``call_s`` each call."""

    spent_s: float
    call_s: float


def calls(ours: Cost, theirs: Cost) -> float:
    """How many calls until ``ours`` has cost less in total; 0 from the first, inf for never.

    ours.spent + n * ours.call <= theirs.spent + n * theirs.call, for the least whole n.
    """
    more_s = ours.spent_s - theirs.spent_s
    saved_s = theirs.call_s - ours.call_s
    if saved_s <= 0:
        return math.inf
    return max(0, math.ceil(more_s / saved_s))


def lines(record: RunRecord) -> list[str]:
    """The break-even of *after*, and of what is tuned, against torch.compile's cold start.

    None of a backend whose row, or torch.compile's, is missing.
    """
    by_name = {row.backend: row for row in record.results}
    theirs = _cost(by_name.get(COLD))
    told = []
    for name in (AFTER, *TUNED):
        row = by_name.get(name)
        ours = _cost(row)
        if row is None or ours is None or theirs is None:
            continue
        spent = f"{name} compiles in {row.compile_s:.1f} s"
        if row.tuning_s is not None:
            spent += f" after {row.tuning_s:.0f} s of tuning"
        told.append(f"{_said(name, ours, theirs)}; {spent}, {COLD} in {theirs.spent_s:.1f} s")
    return told


def _said(name: str, ours: Cost, theirs: Cost) -> str:
    count = calls(ours, theirs)
    if math.isinf(count):
        return f"break-even: never, since a call of {name} is no faster than {COLD}'s"
    if count == 0:
        return f"break-even: from the first call of {name} on"
    saved_ms = (theirs.call_s - ours.call_s) * 1e3
    return f"break-even: after {count:,} calls of {name}, each {saved_ms:.2f} ms shorter"


def _cost(row: Result | None) -> Cost | None:
    if row is None or row.latency_ms is None or row.compile_s is None:
        return None
    rounds = stats.round_medians(row.latency_ms.samples, row.latency_ms.process)
    return Cost(row.compile_s + (row.tuning_s or 0.0), statistics.median(rounds) / 1e3)
