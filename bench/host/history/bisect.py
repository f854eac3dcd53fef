"""The commit that made a backend slower: a binary search, each step a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import JobFailed, UsageFault
from bench.host import stats
from bench.host.history import repository
from bench.host.history.compare import Row, change, compare
from bench.host.stats import Ratio
from bench.record import RunRecord

# Given a commit and a work tree that holds it; JobFailed where that commit cannot be measured.
Measure = Callable[[str, Path], RunRecord]


@dataclass(frozen=True)
class Step:
    """One commit that was looked at: its time over that of the good one, and what it counts as."""

    commit: str
    state: Literal["good", "bad", "skipped"]
    ratio: Ratio | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.commit[:12]} {self.state}: " + (
            change(self.ratio) if self.ratio else self.reason or ""
        )


@dataclass(frozen=True)
class Found:
    """``commits``: the first bad one; several, oldest first, where those between were skipped.

    ``effect`` is the time of the bad end over that of the good one.
    """

    commits: tuple[str, ...]
    effect: Ratio
    steps: tuple[Step, ...]


def bisect(
    root: Path,
    good: str,
    bad: str,
    backend: str,
    measure: Measure,
    *,
    allow: Iterable[str] = (),
    least_effect: float = stats.LEAST_EFFECT,
    on_step: Callable[[Step, int], None] | None = None,
) -> Found:
    """Find the commit between ``good`` and ``bad`` since which ``backend`` is slower.

    Both ends are measured first. A commit counts as bad where it is shown to be slower than the
    good end by more than half of what separates the ends, in logarithms; that leaves the widest
    margin on both sides. One that cannot be measured is skipped. ``on_step`` is told of every
    step, and of how many commits may still be the one.

    Raises:
        UsageFault: an end is no commit, they are not one before the other, the bad end is not
            shown to be slower by more than ``least_effect``, or the runs are unlike or have too
            few rounds.
        JobFailed: an end cannot be measured.
    """
    allowed = tuple(allow)
    first, last = repository.commit_of(root, good), repository.commit_of(root, bad)
    chain = repository.between(root, first, last)
    steps: list[Step] = []
    with repository.worktree(root) as tree:

        def measured(commit: str) -> RunRecord:
            repository.check_out(tree, commit)
            return measure(commit, tree)

        def against_good(commit: str) -> Row:
            compared = compare(base, measured(commit), allow=allowed, backends=(backend,))
            for row in compared.rows:
                if row.name == backend:
                    return row
            raise JobFailed("; ".join(one.reason for one in compared.lost) or "not measured")

        base = measured(first)
        effect = _effect(against_good(last), good, bad, least_effect)
        threshold = math.sqrt(effect.estimate) - 1
        below, above = -1, len(chain) - 1  # the last good, the first bad, by place in the chain
        skipped: set[int] = set()
        while True:
            open_ones = [place for place in range(below + 1, above) if place not in skipped]
            if not open_ones:
                break
            middle = min(open_ones, key=lambda place: abs(2 * place - below - above))
            step = _step(chain[middle], against_good, threshold)
            steps.append(step)
            if step.state == "good":
                below = middle
            elif step.state == "bad":
                above = middle
            else:
                skipped.add(middle)
            if on_step:
                on_step(step, above - below)
    return Found(tuple(chain[below + 1 : above + 1]), effect, tuple(steps))


def _effect(row: Row, good: str, bad: str, least_effect: float) -> Ratio:
    found = stats.verdict(row.ratio, least_effect)
    if found == "too few rounds":
        raise _too_few(row)
    if found != "slower":
        raise UsageFault(
            f"{bad} is not shown to be slower than {good} by more than {least_effect * 100:g}%: "
            f"{row.name} takes {change(row.ratio)}",
            hint="other ends, or more rounds; there is nothing to search for between these",
        )
    return row.ratio


def _step(commit: str, against_good: Callable[[str], Row], threshold: float) -> Step:
    try:
        row = against_good(commit)
    except JobFailed as error:
        return Step(commit, "skipped", reason=error.message)
    found = stats.verdict(row.ratio, threshold)
    if found == "too few rounds":
        raise _too_few(row)
    return Step(commit, "bad" if found == "slower" else "good", row.ratio)


def _too_few(row: Row) -> UsageFault:
    return UsageFault(
        f"{row.ratio.rounds} rounds are too few to tell; it takes {stats.MIN_ROUNDS}",
        hint="measure with more rounds",
    )
