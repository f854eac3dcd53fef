"""A latency as a chart shows it: the middle, and how far it reaches; by the words of stats."""

from __future__ import annotations

from dataclasses import dataclass

from bench.host import report, stats
from bench.record import Latency, Result

_ENOUGH = 6  # rounds: of fewer no interval of this kind reaches 95%, and it is their range


@dataclass(frozen=True)
class Spread:
    """Milliseconds. ``what`` says which bounds ``low`` and ``high`` are."""

    middle: float
    low: float
    high: float
    what: str


def of(latency: Latency) -> Spread:
    """The median with its 95% interval over rounds; of one round, with p10 and p90 of its calls."""
    medians = stats.round_medians(latency.samples, latency.process)
    if len(medians) == 1:
        what = f"p10 to p90 of {len(latency.samples)} calls"
        return Spread(medians[0], latency.p10, latency.p90, what)
    found = stats.median_interval(medians)
    what = f"95% interval of the median of {len(medians)} rounds"
    if len(medians) < _ENOUGH:
        what = f"range of the medians of {len(medians)} rounds"
    return Spread(found.estimate, found.low, found.high, what)


def measured(results: list[Result]) -> list[tuple[Result, Spread]]:
    """The rows that have a latency, in the order of the table."""
    rows = sorted(results, key=report.order)
    return [(row, of(row.latency_ms)) for row in rows if row.latency_ms]


def kinds(spreads: list[Spread]) -> str:
    """What the whiskers of one chart are, in one phrase."""
    return "; ".join(dict.fromkeys(one.what for one in spreads))
