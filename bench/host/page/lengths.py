"""Latency against length, over the runs that are alike in all but their length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.host.history import identity, series
from bench.host.page import spread
from bench.host.page.chart import Canvas, Chart, number, short
from bench.host.page.palette import look
from bench.host.page.spread import Spread
from bench.host.page.table import Table
from bench.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 12  # charts on one page
_AXIS = {
    ("prefill", "latency"): ("Prefill", "time for the prompt (ms)", "prompt (tokens)"),
    ("decode", "latency"): ("Decode", "time for one token (ms)", "context (tokens)"),
    ("decode", "ttft"): ("First token", "prefill of the context (ms)", "context (tokens)"),
    ("encode", "latency"): ("Encode", "time for one call (ms)", "text (tokens)"),
}  # fmt: skip


@dataclass(frozen=True)
class Alike:
    """What runs have in common whose points may be joined to a line."""

    mode: str
    metric: str
    model: str
    weights: str
    device: str
    batch_size: int
    dtype: str
    threads: str
    machine: str
    image: str

    def __str__(self) -> str:
        built = f", {self.image}" if self.image else ""
        return (
            f"{self.model}, batch {self.batch_size}, {self.dtype}, {self.device}, "
            f"{self.threads} threads, {self.machine}{built}"
        )


@dataclass(frozen=True)
class Point:
    """One backend at one length, from one run."""

    length: int
    backend: str
    spread: Spread
    run_id: str


Points = dict[tuple[str, int], Point]


class Lengths:
    """Gathers points from runs, oldest first: of two at one place the newer stays."""

    def __init__(self) -> None:
        self._groups: dict[Alike, Points] = defaultdict(dict)

    def add(self, record: RunRecord) -> None:
        for one in series.of(record):
            result = one.result
            latency = result.latency_ms if one.metric == "latency" else result.ttft_ms
            if latency is None:
                continue
            point = Point(result.seq_len, one.backend, spread.of(latency), record.run_id)
            self._groups[_alike(record, one)][one.backend, result.seq_len] = point

    def charts(self) -> tuple[list[Chart], int]:
        """A chart for each group of at least two lengths, and how many found no room."""
        found = [
            (alike, list(points.values()))
            for alike, points in self._groups.items()
            if len({length for _, length in points}) > 1
        ]
        order = list(_AXIS)
        found.sort(key=lambda one: (_place(one[0], order), str(one[0])))
        charts = [
            _chart(f"lengths-{place}", alike, points)
            for place, (alike, points) in enumerate(found[:MOST], start=1)
        ]
        return charts, max(0, len(found) - MOST)


def _place(alike: Alike, order: list[tuple[str, str]]) -> int:
    key = (alike.mode, alike.metric)
    return order.index(key) if key in order else len(order)


def _alike(record: RunRecord, one: series.Series) -> Alike:
    spec, result, image = record.spec, one.result, record.image
    return Alike(
        mode=result.mode,
        metric=one.metric,
        model=result.model,
        weights=spec.weights.sha256 if spec.weights else "seeded",
        device=result.device,
        batch_size=result.batch_size,
        dtype=result.dtype,
        threads=str(result.threads or identity.UNKNOWN),
        machine=identity.machine(record) or identity.UNKNOWN,
        # Local runs have none, and their packages are the environment's.
        image=f"{image.tag} {identity.build_type(record) or ''}".strip() if image else "",
    )


def _chart(name: str, alike: Alike, points: list[Point]) -> Chart:
    title, unit, across = _AXIS.get(
        (alike.mode, alike.metric), (short(alike.mode, 20), "time (ms)", "length (tokens)")
    )
    lines: dict[str, list[Point]] = defaultdict(list)
    for point in sorted(points, key=lambda one: one.length):
        lines[point.backend].append(point)
    words = (
        f"{title} against length on logarithmic axes, for {alike}. "
        + " ".join(_said(backend, line) for backend, line in lines.items())
        + f" Whiskers: {spread.kinds([one.spread for one in points])}. Of several runs of one "
        "length the newest counts."
    )
    table = Table(
        short(f"{title} against length: {alike}", 200),
        ("backend", "run", "tokens", "median ms", "from ms", "to ms"),
        [
            (
                point.backend,
                point.run_id,
                str(point.length),
                *(f"{ms:.3f}" for ms in (point.spread.middle, point.spread.low, point.spread.high)),
            )
            for line in lines.values()
            for point in line
        ],
        text=2,
    )

    whole = f"{title} against length: {short(alike.model, 20)}"

    def draw(canvas: Canvas) -> Figure:
        from matplotlib.ticker import LogLocator

        rows = -(-len(lines) // (3 if canvas.wide else 2))
        figure = canvas.figure(whole, (3.6 if canvas.wide else 3.2) + 0.2 * rows)
        axes = figure.add_subplot()
        canvas.dress(axes)
        for backend, line in lines.items():
            looks = look(backend)
            middle = [point.spread.middle for point in line]
            below = [point.spread.middle - point.spread.low for point in line]
            above = [point.spread.high - point.spread.middle for point in line]
            axes.errorbar(
                [point.length for point in line],
                middle,
                yerr=[[max(0.0, ms) for ms in below], [max(0.0, ms) for ms in above]],
                label=short(backend, 24),
                color=canvas.palette.of(backend),
                linestyle=looks.dash,
                marker=looks.marker,
                markersize=5,
                linewidth=1.5,
                capsize=3,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({point.length for point in points})
        if len(ticks) <= 10:
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        else:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.minorticks_off()
        low, high = axes.get_ylim()
        if high < 300 * low:  # decades alone would leave the axis with one number, or none
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        axes.set_xlabel(across)
        axes.set_ylabel(unit)
        figure.legend(loc="outside lower left", ncols=3 if canvas.wide else 2)
        return figure

    return Chart(name, whole, words, draw, table)


def _said(backend: str, line: Iterable[Point]) -> str:
    told = ", ".join(f"{point.length} tokens {number(point.spread.middle)} ms" for point in line)
    return f"{short(backend)}: {told}."
