"""The roofline: how fast each backend is against what the machine can do at best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.host import report
from bench.host.page.chart import Canvas, Chart, number, short
from bench.host.page.palette import look
from bench.host.page.table import Table
from bench.record import Result, RunRecord
from bench.roofline import Peak, Roofline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = "Roofline: speed against the peak"


def roofline(record: RunRecord) -> Chart | None:
    """The plot; None where the run measured no peak, or nothing that stands against it."""
    peak = record.environment.peak if record.environment else None
    rows = [
        (row, row.roofline)
        for row in sorted(record.results, key=report.order)
        if row.roofline and row.roofline.bytes_moved and row.roofline.gflops
    ]
    if peak is None or not rows:
        return None
    words = (
        f"A roofline plot on logarithmic axes. The machine reaches {number(peak.gemm_gflops)} "
        f"GFLOP/s in matrix products ({peak.gemm}) and reads {number(peak.read_gb_s)} GB/s from "
        f"memory ({peak.read}), both measured in the run itself. "
        + " ".join(f"{short(row.backend)}: {_said(one)}." for row, one in rows)
    )
    table = Table(
        "Roofline; operations and bytes are counted from the model's geometry",
        ("backend", "bound", "GFLOP", "GB moved", "FLOP per byte", "GFLOP/s", "GB/s",
         "of peak GFLOP/s", "of peak GB/s"),
        [_figures(row, one) for row, one in rows],
        text=2,
    )  # fmt: skip

    def draw(canvas: Canvas) -> Figure:
        return _drawn(canvas, peak, rows)

    return Chart("roofline", _TITLE, words, draw, table)


def _drawn(canvas: Canvas, peak: Peak, rows: list[tuple[Result, Roofline]]) -> Figure:
    figure = canvas.figure(_TITLE, 4.0 if canvas.wide else 4.6)
    axes = figure.add_subplot()
    canvas.dress(axes)
    ridge = peak.gemm_gflops / peak.read_gb_s
    intensities = [one.flops / one.bytes_moved for _, one in rows]
    left = min(*intensities, ridge) / 6
    right = max(*intensities, ridge) * 6
    halfway = (left * ridge) ** 0.5
    ink = canvas.palette["ink"]
    axes.plot([left, ridge], [left * peak.read_gb_s, peak.gemm_gflops], color=ink, linewidth=1.6)
    axes.plot([ridge, right], [peak.gemm_gflops] * 2, color=ink, linewidth=1.6)
    axes.axvline(ridge, color=canvas.palette["soft"], linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{number(peak.gemm_gflops)} GFLOP/s",
        (right, peak.gemm_gflops), (-2, 4), textcoords="offset points", ha="right", va="bottom",
    )  # fmt: skip
    axes.annotate(
        f"{number(peak.read_gb_s)} GB/s",
        (halfway, halfway * peak.read_gb_s), (-5, 3), textcoords="offset points",
        ha="right", va="bottom",
    )  # fmt: skip
    for row, one in rows:
        axes.plot(
            one.flops / one.bytes_moved,
            one.gflops,
            linestyle="none",
            marker=look(row.backend).marker,
            markersize=8,
            color=canvas.palette.of(row.backend),
            markeredgecolor=canvas.palette["ground"],
            label=f"{short(row.backend, 24)}: {_share(one)}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    low = min(min(one.gflops for _, one in rows), left * peak.read_gb_s)
    axes.set_ylim(low / 3, peak.gemm_gflops * 3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: number(value))
        axis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("operations for each byte moved (FLOP per byte)")
    axes.set_ylabel("speed (GFLOP/s)")
    figure.legend(loc="outside lower left", ncols=2 if canvas.wide else 1)
    return figure


def _share(one: Roofline) -> str:
    if one.bound == "compute":
        return f"{one.gemm_fraction:.1%} of GFLOP/s"
    return f"{one.read_fraction:.1%} of GB/s"


def _said(one: Roofline) -> str:
    return (
        f"{number(one.gflops)} GFLOP/s, {number(one.gb_s)} GB/s, {_share(one)} ({one.bound}-bound)"
    )


def _figures(row: Result, one: Roofline) -> tuple[str, ...]:
    return (
        row.backend,
        one.bound,
        f"{one.flops / 1e9:.3f}",
        f"{one.bytes_moved / 1e9:.4f}",
        f"{one.flops / one.bytes_moved:.2f}",
        f"{one.gflops:.2f}",
        f"{one.gb_s:.2f}",
        f"{one.gemm_fraction:.1%}",
        f"{one.read_fraction:.1%}",
    )
