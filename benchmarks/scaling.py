"""How the cost of GPT-2 grows: ``python -m benchmarks.scaling`` (``make scaling``).

With the prompt, the context, the depth and the threads. Measured by a sweep of scaling.toml, which
is resumed where it was interrupted; a Markdown table for each follows, with the fitted exponent,
and a chart of all as SVG where ``--svg`` names one.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.catalog import AFTER
from bench.errors import UsageFault
from bench.host import stats
from bench.host.page.chart import Canvas, Chart, number, short
from bench.host.page.palette import look
from bench.limits import available_cores
from bench.record import RecordedSpec, RunRecord
from benchmarks import sweeping

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SWEEP = Path(__file__).with_name("scaling.toml")
THREADS_AT = 512  # tokens of a prompt: enough work for many cores

# Key: what it is called, the name of what grows, and of what is measured.
AXES = {
    "prompt": ("Prefill by prompt", "tokens", "ms for the prompt"),
    "context": ("Decode by context", "tokens", "ms for one token"),
    "depth": ("Prefill of 64 by depth", "layers", "ms for the prompt"),
    "threads": (f"Prefill of {THREADS_AT} by threads", "threads", "ms for the prompt"),
}
COMPILE = f"{AFTER}, compiling it, ms"


@dataclass
class Growth:
    """What grows along one axis: of each backend the median of its rounds, ms, by place."""

    axis: str
    lines: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def places(self) -> list[int]:
        """Where anything was measured, in order."""
        return sorted({place for line in self.lines.values() for place in line})


def exponent(line: Mapping[int, float]) -> float | None:
    """The slope of a straight line through the points on logarithmic axes, by least squares.

    The p of time ~ place^p: 1 where twice as much takes twice as long. None of fewer than two
    places, which have no slope.
    """
    if len(line) < 2:
        return None
    places, times = zip(*sorted(line.items()), strict=True)
    fitted = statistics.linear_regression(list(map(math.log, places)), list(map(math.log, times)))
    return float(fitted.slope)


def tail(line: Mapping[int, float]) -> dict[int, float]:
    """The last three places: where what does not grow weighs least."""
    return dict(sorted(line.items())[-3:])


def collect(records: Iterable[RunRecord]) -> list[Growth]:
    """What ``records`` hold along each axis, in the order of ``AXES``; the newest run counts."""
    found = {axis: Growth(axis) for axis in AXES}
    for record in records:
        axis, place = place_of(record.spec)
        for row in record.results:
            if row.latency_ms is None:
                continue
            medians = stats.round_medians(row.latency_ms.samples, row.latency_ms.process)
            found[axis].lines[row.backend][place] = statistics.median(medians)
            if axis == "depth" and row.backend == AFTER and row.compile_s is not None:
                found[axis].lines[COMPILE][place] = row.compile_s * 1e3
    return [growth for growth in found.values() if growth.lines]


def place_of(spec: RecordedSpec) -> tuple[str, int]:
    """The axis that a run is a point of, and its place there."""
    if spec.layers is not None:
        return "depth", spec.layers
    if spec.threads is not None:
        return "threads", spec.threads
    return ("context" if spec.mode == "decode" else "prompt"), spec.seq_len


def tables(growths: Sequence[Growth]) -> list[str]:
    """A Markdown table an axis: a row a place, then the exponents."""
    lines: list[str] = []
    for one in growths:
        title, unit, measured = AXES[one.axis]
        names = list(one.lines)
        lines += [f"**{title}**, {measured}:", "", f"| {unit} | {' | '.join(names)} |"]
        lines.append("|---:" * (len(names) + 1) + "|")
        for place in one.places:
            cells = [_cell(one.lines[name].get(place)) for name in names]
            lines.append(f"| {place} | {' | '.join(cells)} |")
        for said, taken in (("exponent", dict), ("of the last three", tail)):
            if said != "exponent" and len(one.places) < 4:
                continue
            slopes = [exponent(taken(one.lines[name])) for name in names]
            told = ["-" if slope is None else f"{slope:.2f}" for slope in slopes]
            lines.append(f"| {said} | {' | '.join(told)} |")
        lines.append("")
    return lines[:-1]


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)


def chart(growths: Sequence[Growth]) -> Chart:
    """All axes as panels of one chart, logarithmic both ways."""
    words = "Time against what grows, on logarithmic axes. " + " ".join(map(_said, growths))

    def draw(canvas: Canvas) -> Figure:
        rows = -(-len(growths) // 2)
        figure = canvas.figure("How the cost of GPT-2 124M grows", 2.9 * rows + 0.4)
        panels = figure.subplots(rows, 2, squeeze=False).flat
        handles: dict[str, Artist] = {}
        for growth, axes in zip(growths, panels, strict=False):
            handles |= _panel(canvas, axes, growth)
        for axes in list(panels)[len(growths) :]:
            axes.set_visible(False)
        figure.legend(list(handles.values()), list(handles), loc="outside lower left", ncols=3)
        return figure

    return Chart("scaling", "How the cost of GPT-2 124M grows", words, draw)


def _panel(canvas: Canvas, axes: Axes, growth: Growth) -> dict[str, Artist]:
    from matplotlib.ticker import LogLocator

    title, unit, measured = AXES[growth.axis]
    canvas.dress(axes)
    handles: dict[str, Artist] = {}
    for name, line in growth.lines.items():
        looks, slope = look(name), exponent(line)
        (drawn,) = axes.plot(
            sorted(line),
            [line[place] for place in sorted(line)],
            color=canvas.palette.of(name),
            linestyle=looks.dash,
            marker=looks.marker,
            markersize=5,
            linewidth=1.5,
        )
        handles[short(name)] = drawn
        if slope is not None:
            axes.annotate(
                f"{slope:.2f}", (max(line), line[max(line)]), (3, 3), "data", "offset points"
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(growth.places, [f"{place:,}" for place in growth.places])
    axes.minorticks_off()
    # A panel may span less than one power of ten, and still wants a figure or two beside it.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.set_ylabel(measured)
    return handles


def _said(growth: Growth) -> str:
    title, unit, _ = AXES[growth.axis]
    told = []
    for name, line in growth.lines.items():
        points = ", ".join(
            f"{place:,} {unit} {number(ms)} ms" for place, ms in sorted(line.items())
        )
        slope = exponent(line)
        fitted = "" if slope is None else f", exponent {slope:.2f}"
        told.append(f"{short(name)}: {points}{fitted}.")
    return f"{title}. {' '.join(told)}"


def with_threads(text: str, cores: int) -> str:
    """The sweep's file with a table for 1, 2, 4 … threads, and all ``cores``."""
    counts = sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores})
    return f'{text}\n[[sweep]]\nmode = "prefill"\nseq_len = {THREADS_AT}\nthreads = {counts}\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep, then print the tables and draw the chart."""
    parser = argparse.ArgumentParser("benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, default=sweeping.ROOT / "results" / "scaling")
    parser.add_argument("--table", action="store_true", help="measure nothing: what --out has")
    parser.add_argument("--svg", type=Path, help="draw the chart into this file")
    asked = parser.parse_args(arguments)
    out: Path = asked.out
    if not asked.table:
        out.mkdir(parents=True, exist_ok=True)
        sweep = out / SWEEP.name
        sweep.write_text(with_threads(SWEEP.read_text(), available_cores()))
        code = sweeping.sweep(sweep, out)
        if code:
            return code
    try:
        growths = collect(sweeping.records([out], out, "make scaling"))
    except UsageFault as fault:
        return sweeping.told(fault)
    print("\n".join(tables(growths)))
    if asked.svg is not None:
        asked.svg.write_text(chart(growths).svg(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
