"""Where the time goes: each backend's operators, as its profiler saw them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.catalog import AFTER, BEFORE
from bench.host import report
from bench.host.page.chart import Canvas, Chart, number, short
from bench.host.page.palette import look
from bench.host.page.table import Table
from bench.operators import OperatorProfile, kind_of
from bench.record import Result, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 8  # operators of one backend in a chart; the table has all of them
_BAR_IN = 0.24
_ROWS = 2000  # of the table
_REST, _BETWEEN = "other operators", "between operators"

Profiled = tuple[Result, OperatorProfile]


def charts(record: RunRecord) -> list[Chart]:
    """One chart for before and after, one for the others; of those that were profiled."""
    rows = [
        (row, row.operators)
        for row in sorted(record.results, key=report.order)
        if row.operators and row.operators.operators
    ]
    ours = [one for one in rows if one[0].backend in (BEFORE, AFTER)]
    others = [one for one in rows if one not in ours]
    found = []
    if ours:
        found.append(_chart("operators", "Where the time goes, before and after", ours))
    if others:
        found.append(_chart("operators-peers", "Where the time goes in the others", others))
    return found


def table(record: RunRecord) -> Table | None:
    """Every operator of every backend; None where none was profiled."""
    rows = [
        (
            row.backend,
            one.name,
            kind_of(one.name),
            one.shapes or "",
            f"{one.calls:g}",
            f"{one.total_ms:.4f}",
            f"{one.total_ms / profile.call_ms:.1%}" if profile.call_ms else "-",
        )
        for row in sorted(record.results, key=report.order)
        if (profile := row.operators)
        for one in profile.operators
    ]
    if not rows:
        return None
    caption = "Every operator, in one call of the model"
    if len(rows) > _ROWS:
        caption += f" (the first {_ROWS:,} of {len(rows):,}; record.json has all)"
    headings = ("backend", "operator", "kind", "shapes", "calls", "ms", "share")
    return Table(caption, headings, rows[:_ROWS], text=4, filterable=True)


def _chart(name: str, title: str, rows: list[Profiled]) -> Chart:
    words = " ".join(
        f"{short(row.backend)}, by {profile.profiler}, {number(profile.call_ms)} ms a call over "
        f"{profile.calls} calls: "
        + ", ".join(f"{short(part)} {ms / profile.call_ms:.0%}" for part, ms in _parts(profile)[:3])
        + "."
        for row, profile in rows
        if profile.call_ms
    )

    def draw(canvas: Canvas) -> Figure:
        sizes = [0.75 + _BAR_IN * len(_parts(profile)) for _, profile in rows]
        figure = canvas.figure(title, sum(sizes))
        grid = figure.subplots(len(rows), squeeze=False, height_ratios=sizes)
        for (axes,), (row, profile) in zip(grid, rows, strict=True):
            _panel(canvas, axes, row, profile)
        return figure

    return Chart(name, title, words, draw)


def _panel(canvas: Canvas, axes: Axes, row: Result, profile: OperatorProfile) -> None:
    canvas.dress(axes, grid="x")
    parts = _parts(profile)
    most = max(ms for _, ms in parts) or 1.0
    for place, (name, ms) in enumerate(parts):
        plain_part = name in (_REST, _BETWEEN)
        axes.barh(
            place,
            ms,
            height=0.7,
            facecolor=canvas.palette["grey"] if plain_part else canvas.palette.of(row.backend),
            edgecolor=canvas.palette["ground"],
            hatch="" if plain_part else look(row.backend).hatch,
            linewidth=0,
        )
        share = f" ({ms / profile.call_ms:.0%})" if profile.call_ms else ""
        axes.text(
            ms + (0.01 if canvas.wide else 0.03) * most,
            place,
            f"{number(ms)} ms{share}",
            va="center",
            ha="left",
        )
    longest = 40 if canvas.wide else 20
    axes.set_yticks(range(len(parts)), [short(name, longest) for name, _ in parts])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, most * (1.3 if canvas.wide else 2.0))
    axes.locator_params(axis="x", nbins=5 if canvas.wide else 3)
    canvas.thousands(axes.xaxis)
    axes.set_title(f"{short(row.backend, 24)}: {number(profile.call_ms)} ms a call")
    axes.set_xlabel("ms in one call")


def _parts(profile: OperatorProfile) -> list[tuple[str, float]]:
    """The operators that take most, the rest of them, and what lies between them."""
    return list(_named(profile))


def _named(profile: OperatorProfile) -> Iterator[tuple[str, float]]:
    ordered = sorted(profile.operators, key=lambda one: -one.total_ms)
    for one in ordered[:_SHOWN]:
        yield one.name + (f" {one.shapes}" if one.shapes else ""), one.total_ms
    rest = sum(one.total_ms for one in ordered[_SHOWN:])
    if rest:
        yield _REST, rest
    between = profile.call_ms - sum(one.total_ms for one in ordered)
    if between > 0:
        yield _BETWEEN, between
