"""The ladder of optimisations: each rung beside the one before it."""

from __future__ import annotations

import statistics

from bench.catalog import AFTER, GPU_LADDER, LADDER, WEIGHT_ONLY
from bench.host import breakeven, stats
from bench.record import RunRecord


def rungs(device: str) -> tuple[str, ...]:
    """The backends that make the ladder on "cpu" or "cuda", the lowest first."""
    return GPU_LADDER if device == "cuda" else LADDER


def backends(also: str | None, device: str = "cpu") -> str:
    """The rungs, comma-separated, the peer of their break-even, and what else is named."""
    names = [name for name in (also or "").split(",") if name.strip()]
    whole = [*rungs(device), breakeven.COLD, *(name.strip() for name in names)]
    return ",".join(dict.fromkeys(whole))


def lines(record: RunRecord) -> list[str]:
    """What each rung is worth: its time, and its factor over the rung before; [] for no ladder.

    Rungs with other weights are two ways on from ``AFTER``: both are held against that.
    """
    by_name = {result.backend: result for result in record.results}
    ladder = rungs(record.spec.device)
    if sum(name in by_name and name not in WEIGHT_ONLY for name in ladder) <= 2:
        return []
    said: list[str] = []
    before: float | None = None
    after: float | None = None
    for name in ladder:
        latency = by_name[name].latency_ms if name in by_name else None
        if latency is None:
            continue
        median = statistics.median(stats.round_medians(latency.samples, latency.process))
        other = name in WEIGHT_ONLY
        below = after if other else before
        factor = f", {below / median:.2f}x" if below is not None and median > 0 else ""
        over = f" of {AFTER}" if other and factor else ""
        said.append(f"{name}: {median:.2f} ms{factor}{over}")
        if not other:
            before = median
        if name == AFTER:
            after = median
    return said and ["the ladder, each over the rung before it: " + "; ".join(said)]
