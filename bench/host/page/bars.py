"""Bars: before and after with intervals, and what compiling and running cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.catalog import AFTER, BEFORE
from bench.host import report, rounding
from bench.host.page import spread
from bench.host.page.chart import Canvas, Chart, number, short
from bench.host.page.palette import look
from bench.host.page.spread import Spread
from bench.host.page.table import Table
from bench.record import Result, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR_IN = 0.36  # of height for each bar
_PANEL_IN = 0.78  # and for a panel's title, axis and label
_TITLE = "Median latency"
_FAR = 4.0  # how many times the least the most may be, before bars are split in two panels


@dataclass(frozen=True)
class Bar:
    """One bar with its label and, where it has one, its whisker."""

    name: str
    value: float
    label: str
    low: float | None = None
    high: float | None = None
    role: str = ""


@dataclass(frozen=True)
class Panel:
    """Bars on one axis from 0."""

    title: str
    unit: str
    bars: Sequence[Bar]


def before_and_after(record: RunRecord) -> Chart | None:
    """The latencies; None where nothing was measured."""
    rows = spread.measured(record.results)
    if not rows:
        return None
    spreads = [one for _, one in rows]
    base = next((one.middle for row, one in rows if row.backend == BEFORE), None)
    bars = {row.backend: _bar(row, one, base) for row, one in rows}
    unit = f"{_what(record)} (ms)"
    words = (
        "Bars of the median latency, shorter is faster. "
        + "; ".join(f"{short(bar.name)}{bar.role and f' ({bar.role})'} {bar.label}"
                    for bar in bars.values())
        + f". Whiskers: {spread.kinds(spreads)}."
    )  # fmt: skip
    table = Table(
        "Median latency and its whisker",
        ("backend", "median ms", "from ms", "to ms", "whisker"),
        [
            (row.backend, *(f"{ms:.2f}" for ms in (one.middle, one.low, one.high)), one.what)
            for row, one in rows
        ],
    )
    panels = _split(list(bars.values()), unit)
    return Chart("latency", _TITLE, words, _drawn(_TITLE, panels), table)


def cost(record: RunRecord) -> Chart | None:
    """Compile time and peak memory; None where neither was measured."""
    rows = sorted(record.results, key=report.order)
    compile_s = [
        Bar(
            row.backend, row.compile_s, f"{number(row.compile_s)} s{'*' * bool(row.compile_cached)}"
        )
        for row in rows
        if row.compile_s
    ]
    memory = [
        Bar(row.backend, row.peak_memory_mib, f"{row.peak_memory_mib:,.0f} MiB")
        for row in rows
        if row.peak_memory_mib
    ]
    found = [
        panel
        for panel in (
            Panel("Compile time", "seconds", compile_s),
            Panel("Peak memory of the process", "MiB", memory),
        )
        if panel.bars
    ]
    if not found:
        return None
    words = " ".join(
        f"{panel.title}: "
        + ", ".join(f"{short(bar.name)} {bar.label.rstrip('*')}" for bar in panel.bars)
        + "."
        for panel in found
    )
    if any(row.compile_cached for row in rows):
        words += " * compiled in an earlier run, whose time is shown."
    title = "Compile time and memory"
    return Chart("cost", title, words, _drawn(title, found))


def _bar(row: Result, one: Spread, base: float | None) -> Bar:
    role = {BEFORE: "before", AFTER: "after"}.get(row.backend, rounding.role(row))
    label = f"{number(one.middle)} ms"
    if base and row.backend != BEFORE:
        label += f", {base / one.middle:.2f}x" if one.middle else ""
    return Bar(row.backend, one.middle, label, one.low, one.high, role)


def _what(record: RunRecord) -> str:
    return "time for one token" if record.spec.mode == "decode" else "time for one call"


def _split(bars: list[Bar], unit: str) -> list[Panel]:
    """Two panels where one axis would make slivers of the fast ones; after stands in both."""
    most, least = max(bar.high or bar.value for bar in bars), min(bar.value for bar in bars)
    if most <= _FAR * least:
        return [Panel("", unit, bars)]
    after = next((bar.value for bar in bars if bar.name == AFTER), least)
    near = [bar for bar in bars if bar.value <= _FAR * max(after, least)]
    far = [bar for bar in bars if bar not in near]
    shared = [bar for bar in near if bar.name == AFTER]
    first = sorted([*far, *shared], key=lambda bar: bars.index(bar))
    if len(near) < 2 or not far:
        return [Panel("", unit, bars)]
    return [Panel("Before and after", unit, first), Panel("The fast ones, closer", unit, near)]


def _drawn(title: str, panels: Sequence[Panel]) -> Callable[[Canvas], Figure]:
    def draw(canvas: Canvas) -> Figure:
        sizes = [_PANEL_IN + _BAR_IN * len(panel.bars) for panel in panels]
        figure = canvas.figure(title, sum(sizes))
        grid = figure.subplots(len(panels), squeeze=False, height_ratios=sizes)
        for (axes,), panel in zip(grid, panels, strict=True):
            canvas.dress(axes, grid="x")
            top = max(max(bar.high or 0, bar.value) for bar in panel.bars) or 1.0
            for place, bar in enumerate(panel.bars):
                _one(canvas, axes, place, bar, top)
            axes.set_yticks(range(len(panel.bars)), [_tick(bar) for bar in panel.bars])
            axes.tick_params(axis="y", length=0)
            axes.set_ylim(len(panel.bars) - 0.4, -0.6)
            # Room for the longest label, which stands past its bar.
            axes.set_xlim(0, top * (1.36 if canvas.wide else 1.75))
            axes.locator_params(axis="x", nbins=6 if canvas.wide else 4)
            canvas.thousands(axes.xaxis)
            axes.set_title(panel.title)
            axes.set_xlabel(panel.unit)
        return figure

    return draw


def _one(canvas: Canvas, axes: Axes, place: int, bar: Bar, top: float) -> None:
    ink = canvas.palette["ink"]
    axes.barh(
        place,
        bar.value,
        height=0.62,
        facecolor=canvas.palette.of(bar.name),
        # The hatch is drawn in the edge's colour.
        edgecolor=canvas.palette["ground"],
        hatch=look(bar.name).hatch,
        linewidth=0,
    )
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [place, place], color=ink, linewidth=1.4)
        for end in (bar.low, bar.high):
            axes.plot([end, end], [place - 0.14, place + 0.14], color=ink, linewidth=1.4)
    past = max(bar.value, bar.high or 0) + (0.015 if canvas.wide else 0.03) * top
    axes.text(past, place, bar.label, va="center", ha="left")


def _tick(bar: Bar) -> str:
    return short(bar.name, 22) + (f"\n({bar.role})" if bar.role else "")
