"""Two like runs, backend by backend: how much longer the new one takes, and what that shows.

Ratios are times of the new run over times of the base, of round medians; bench.host.stats has the
method. Runs that were not measured on the same are refused, key by key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.errors import JobFailed, UsageFault
from bench.host import stats
from bench.host.history import identity, series
from bench.host.history.identity import Difference
from bench.host.history.series import Series
from bench.host.stats import Interval, Ratio, Verdict
from bench.record import RunRecord


@dataclass(frozen=True)
class Row:
    """One backend's metric in both runs: milliseconds, and the new over the base."""

    name: str
    backend: str
    base: Interval
    new: Interval
    ratio: Ratio
    verdict: Verdict

    @property
    def sure(self) -> bool:
        """Whether there are rounds enough for a verdict, whatever it is."""
        return self.verdict != "too few rounds"


@dataclass(frozen=True)
class Lost:
    """A backend that was measured in the base and that the new run tried without success."""

    backend: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """``least_effect`` is the share below which a difference is not spoken of (0.01: 1%)."""

    base: RunRecord
    new: RunRecord
    rows: tuple[Row, ...]
    differing: tuple[Difference, ...]
    lost: tuple[Lost, ...]
    notes: tuple[str, ...]
    least_effect: float


def compare(
    base: RunRecord,
    new: RunRecord,
    *,
    allow: Iterable[str] = (),
    backends: Iterable[str] = (),
    least_effect: float = stats.LEAST_EFFECT,
) -> Comparison:
    """Compare two runs; only ``backends`` where some are named.

    Raises:
        UsageFault: the runs are unlike in a key that is not in ``allow``, ``allow`` names no
            such key, or no backend was measured in both.
    """
    differing = tuple(identity.differences(base, new))
    _demand_like(base, new, differing, set(allow))
    wanted = set(backends)
    ours, theirs = _named(base, wanted), _named(new, wanted)
    rows = tuple(_row(ours[name], theirs[name], least_effect) for name in ours if name in theirs)
    lost = tuple(_lost(base, new, wanted))
    if not rows and not lost:
        which = f" ({', '.join(sorted(wanted))})" if wanted else ""
        raise UsageFault(
            f"no backend{which} was measured in both {base.run_id} and {new.run_id}",
            hint="measure both with the same --backends; `invoke show RUN` says what a run has",
        )
    notes = tuple(_notes(base, new, ours, theirs, {one.backend for one in lost}))
    return Comparison(base, new, rows, differing, lost, notes, least_effect)


def demand_not_slower(comparison: Comparison, threshold: float) -> None:
    """What CI asks: is the new run free of regressions over ``threshold`` (0.05: 5%)?

    Raises:
        JobFailed: a backend is slower by more than that, and the interval shows it; or one that
            the base measured fails in the new run.
        UsageFault: there are too few rounds to tell.
    """
    slower = [
        f"{row.name} takes {change(row.ratio)}"
        for row in comparison.rows
        if stats.verdict(row.ratio, threshold) == "slower"
    ]
    slower += [f"{one.backend} has no figure any more: {one.reason}" for one in comparison.lost]
    if slower:
        raise JobFailed(
            f"slower than {comparison.base.run_id} by more than {threshold * 100:g}%: "
            f"{'; '.join(slower)}",
            hint="find the commit: invoke bisect --good A --bad B",
        )
    unsure = [row.name for row in comparison.rows if not row.sure]
    if unsure:
        raise UsageFault(
            f"too few rounds to tell for {', '.join(unsure)}: it takes {stats.MIN_ROUNDS} in both",
            hint="measure both runs again, with more rounds: invoke bench --rounds 10",
        )


def threshold(text: str, option: str = "--fail-if-slower") -> float:
    """A share as people write it: ``5%`` is 0.05.

    Raises:
        UsageFault: it is no percentage of 0 to 1000.
    """
    found = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*%", text.strip(), re.ASCII)
    if found is None or float(found[1]) > 1000:
        raise UsageFault(f"{option} '{text}' is no percentage", hint=f"as in {option} 5%")
    return float(found[1]) / 100


def change(ratio: Ratio) -> str:
    """A ratio in words: 1.08x (1.05x to 1.11x)."""
    if ratio.rounds == 1:
        return f"{ratio.estimate:.3f}x (one round)"
    bounds = f" ({ratio.low:.3f}x to {ratio.high:.3f}x)" if ratio.bounded else ""
    return f"{ratio.estimate:.3f}x{bounds}"


def _demand_like(
    base: RunRecord, new: RunRecord, differing: tuple[Difference, ...], allow: set[str]
) -> None:
    unknown = sorted(allow - set(identity.LIKE))
    if unknown:
        raise UsageFault(
            f"--allow {', '.join(unknown)}: there is no such key",
            hint=f"choose from: {', '.join(identity.LIKE)}",
        )
    unlike = [one for one in differing if one.refused and one.key not in allow]
    if unlike:
        keys = ",".join(sorted(allow | {one.key for one in unlike}))
        raise UsageFault(
            f"{base.run_id} and {new.run_id} are not alike: {'; '.join(map(str, unlike))}",
            hint=f"a difference would not say which of these it is from; all the same: "
            f"--allow {keys}",
        )
    nowhere = [record.run_id for record in (base, new) if record.environment is None]
    if nowhere:
        raise UsageFault(
            f"{' and '.join(nowhere)} ended before it said what it ran on",
            hint="compare runs that were measured: invoke results",
        )


def _named(record: RunRecord, wanted: set[str]) -> dict[str, Series]:
    found = {one.name: one for one in series.of(record)}
    unknown = wanted - {one.backend for one in found.values()} - _backends(record)
    if unknown:
        raise UsageFault(
            f"{record.run_id} has no backend {', '.join(sorted(unknown))}",
            hint=f"it has: {', '.join(sorted(_backends(record))) or 'none'}",
        )
    return {name: one for name, one in found.items() if not wanted or one.backend in wanted}


def _backends(record: RunRecord) -> set[str]:
    return {result.backend for result in record.results}


def _row(base: Series, new: Series, least_effect: float) -> Row:
    ratio = stats.paired_ratio(base.rounds, new.rounds)
    return Row(
        name=base.name,
        backend=base.backend,
        base=stats.median_interval(base.rounds),
        new=stats.median_interval(new.rounds),
        ratio=ratio,
        verdict=stats.verdict(ratio, least_effect),
    )


def _lost(base: RunRecord, new: RunRecord, wanted: set[str]) -> Iterator[Lost]:
    measured = identity.measured(base)
    for result in new.results:
        asked = not wanted or result.backend in wanted
        if asked and result.backend in measured and result.latency_ms is None:
            yield Lost(result.backend, result.reason or result.status)


def _notes(
    base: RunRecord,
    new: RunRecord,
    ours: dict[str, Series],
    theirs: dict[str, Series],
    lost: set[str],
) -> Iterator[str]:
    for here, there, record in ((ours, theirs, base), (theirs, ours, new)):
        for name, one in here.items():
            if name not in there and one.backend not in lost:
                yield f"{name} is in {record.run_id} only"
    for name in ours:
        if name in theirs:
            counts = len(ours[name].rounds), len(theirs[name].rounds)
            if counts[0] != counts[1]:
                yield f"{name}: {counts[0]} and {counts[1]} rounds; the first {min(counts)} count"
    for record in (base, new):
        for result in record.results:
            for reason in result.unstable if result.backend in _measured(ours, theirs) else ():
                yield f"{record.run_id}, {result.backend} is unstable: {reason}"
        if record.status != "ok":
            yield f"{record.run_id} failed: {record.reason}"


def _measured(ours: dict[str, Series], theirs: dict[str, Series]) -> set[str]:
    return {one.backend for one in (*ours.values(), *theirs.values())}
