"""Every call's latency: in the order taken, and how the calls are distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.host import report, timing
from bench.host.history import series
from bench.host.history.series import Series
from bench.host.page.chart import Canvas, Chart, number, short
from bench.host.page.table import Table
from bench.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 240  # points of one series; more are a smear, and megabytes
_BINS = 24
_ROW_IN = 1.15


def distributions(record: RunRecord) -> Chart | None:
    """A row of two panels for each series; None where nothing was measured."""
    rows = sorted(series.of(record), key=lambda one: report.order(one.result))
    if not rows:
        return None
    words = (
        "For each backend the latency of every call, in the order taken on the left and as a "
        "histogram on the right; each row has an axis of its own. "
        + " ".join(f"{short(one.name)}: {_said(one)}." for one in rows)
    )
    if any(len(one.samples) > _SHOWN for one in rows):
        words += f" At most {_SHOWN} points a row are drawn, evenly chosen; histograms have all."
    table = Table(
        "Latency of the calls in milliseconds",
        ("series", "calls", "rounds", "least", "p10", "median", "p90", "most"),
        [_figures(one) for one in rows],
    )

    title = "Latency of each call"

    def draw(canvas: Canvas) -> Figure:
        figure = canvas.figure(title, 0.4 + _ROW_IN * len(rows))
        widths = (3, 1) if canvas.wide else (2, 1)
        grid = figure.subplots(len(rows), 2, squeeze=False, sharey="row", width_ratios=widths)
        for (left, right), one in zip(grid, rows, strict=True):
            _calls(canvas, left, one)
            _histogram(canvas, right, one)
        grid[-1][0].set_xlabel("call, in the order taken")
        grid[-1][1].set_xlabel("calls")
        return figure

    return Chart("calls", title, words, draw, table)


def _calls(canvas: Canvas, axes: Axes, one: Series) -> None:
    canvas.dress(axes, grid="y")
    places = _chosen(len(one.samples))
    axes.plot(
        [place + 1 for place in places],
        [one.samples[place] for place in places],
        linestyle="none",
        marker=".",
        markersize=4,
        markeredgewidth=0,
        color=canvas.palette.of(one.backend),
    )
    if one.process:
        # Where one process ends and the next begins.
        for place in range(1, len(one.process)):
            if one.process[place] != one.process[place - 1] and len(set(one.process)) <= 40:
                axes.axvline(place + 0.5, color=canvas.palette["grid"], linewidth=0.8)
    axes.axhline(_middle(one), color=canvas.palette["ink"], linewidth=0.9, linestyle="--")
    axes.set_title(f"{short(one.name, 30)}, median {number(_middle(one))} ms")
    axes.set_ylabel("ms")
    axes.locator_params(axis="y", nbins=4)
    canvas.thousands(axes.yaxis)
    axes.locator_params(axis="x", integer=True, nbins=6)


def _histogram(canvas: Canvas, axes: Axes, one: Series) -> None:
    canvas.dress(axes, grid="x")
    axes.hist(
        one.samples,
        bins=min(_BINS, max(5, len(one.samples) // 4)),
        orientation="horizontal",
        color=canvas.palette.of(one.backend),
    )
    axes.axhline(_middle(one), color=canvas.palette["ink"], linewidth=0.9, linestyle="--")
    axes.tick_params(axis="y", labelleft=False)
    axes.locator_params(axis="x", integer=True, nbins=3)


def _chosen(count: int) -> list[int]:
    if count <= _SHOWN:
        return list(range(count))
    return sorted({round(i * (count - 1) / (_SHOWN - 1)) for i in range(_SHOWN)})


def _middle(one: Series) -> float:
    latency = one.result.latency_ms if one.metric == "latency" else one.result.ttft_ms
    assert latency is not None  # what a series is made from
    return timing.middle(latency)


def _summary(one: Series) -> tuple[float, float, float, float, float]:
    latency = one.result.latency_ms if one.metric == "latency" else one.result.ttft_ms
    assert latency is not None
    return latency.min, latency.p10, _middle(one), latency.p90, max(latency.samples)


def _said(one: Series) -> str:
    _, low, middle, high, _ = _summary(one)
    return (
        f"{len(one.samples)} calls, median {number(middle)} ms, p10 {number(low)}, "
        f"p90 {number(high)}"
    )


def _figures(one: Series) -> tuple[str, ...]:
    counts = (str(len(one.samples)), str(len(one.rounds)))
    return (one.name, *counts, *(f"{ms:.3f}" for ms in _summary(one)))
