"""A comparison as people and programs read it: terminal, Markdown for a pull request, JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.host.history.compare import Comparison, Row, change
from bench.host.history.wording import code, columns, markdown
from bench.host.report import headline, plain
from bench.host.stats import Interval

# A bot finds its comment of the last push by this, and writes over it.
MARKER = "<!-- gpt-frontend compare -->"
_HEADINGS = ("backend", "base ms", "new ms", "new / base (99%)", "verdict")
_MARK = {"slower": "🔴", "faster": "🟢", "no difference shown": "⚪", "too few rounds": "❔"}


def lines(comparison: Comparison) -> list[str]:
    """For the terminal."""
    return [
        plain(f"base {comparison.base.run_id}: {headline(comparison.base)}"),
        plain(f"new  {comparison.new.run_id}"),
        "",
        *columns(_HEADINGS, [_cells(row) for row in comparison.rows], left=1),
        "",
        *(plain(line) for line in _remarks(comparison)),
    ]


def comment(comparison: Comparison, *, failed: str | None = None) -> str:
    """For a pull request. ``failed`` is why the check did, where it was asked and did."""
    verdicts = [row.verdict for row in comparison.rows]
    told = [f"{verdicts.count(name)} {name}" for name in _MARK if name in verdicts] + (
        [f"{len(comparison.lost)} failed"] if comparison.lost else []
    )
    table = [
        (
            code(row.name),
            *_cells(row)[1:-1],
            f"{_MARK[row.verdict]} {row.verdict}",
        )
        for row in comparison.rows
    ]
    table += [(code(one.backend), "", "", "", "🔴 failed") for one in comparison.lost]
    text = [
        MARKER,
        f"### Benchmark: {', '.join(told)}",
        "",
        f"{code(comparison.new.run_id)} against {code(comparison.base.run_id)}, "
        f"{code(headline(comparison.new))}",
        "",
        *markdown(_HEADINGS, table, left=1),
        "",
    ]
    if failed:
        text += [f"**Check failed:** {code(failed)}", ""]
    text += [f"- {code(line)}" for line in _remarks(comparison)]
    text += [
        "",
        "Medians of round medians with a bootstrap 95% interval; ratios paired by round, with a "
        "99% interval. A verdict needs 10 rounds, an interval without 1, and more than "
        f"{comparison.least_effect * 100:g}%.",
    ]
    return "\n".join(text) + "\n"


def data(comparison: Comparison) -> dict[str, Any]:
    """For programs."""
    return {
        "base": comparison.base.run_id,
        "new": comparison.new.run_id,
        "least_effect": comparison.least_effect,
        # JSON has no infinity, which is the upper bound of a single round.
        "rows": [_finite(asdict(row)) for row in comparison.rows],
        "lost": [asdict(one) for one in comparison.lost],
        "differing": [asdict(one) for one in comparison.differing],
        "notes": list(comparison.notes),
    }


def _cells(row: Row) -> tuple[str, ...]:
    return (row.name, _interval(row.base), _interval(row.new), change(row.ratio), row.verdict)


def _interval(value: Interval) -> str:
    if value.low == value.high:  # of one round, which says nothing of its spread
        return f"{value.estimate:.2f}"
    return f"{value.estimate:.2f} ({value.low:.2f} to {value.high:.2f})"


def _remarks(comparison: Comparison) -> list[str]:
    differing = [
        f"{one.key} {'differs, as allowed' if one.refused else 'differs'}: {one.base} and {one.new}"
        for one in comparison.differing
    ]
    lost = [f"{one.backend} failed in the new run: {one.reason}" for one in comparison.lost]
    return [*lost, *comparison.notes, *differing]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    ratio = row["ratio"]
    if ratio["rounds"] == 1:
        row["ratio"] = {**ratio, "low": None, "high": None}
    return row
