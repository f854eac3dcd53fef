"""The latency that tuning comes to, in the page's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.host import tuned, tuning_curve
from bench.host.page.chart import Canvas, Chart
from bench.host.page.table import Table
from bench.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tuning(record: RunRecord) -> Chart | None:
    """The estimate by trials and by minutes; None where there is no point."""
    done = record.tuning
    if done is None or not done.series:
        return None
    heading, _, *rows = tuned.table(done)
    table = Table("Kernels", list(heading), [list(row) for row in rows], text=2, filterable=False)

    def draw(canvas: Canvas) -> Figure:
        figure = canvas.figure(tuning_curve.TITLE, 3.8 if canvas.wide else 6.4)
        shape = (1, 2) if canvas.wide else (2, 1)
        colors = (
            canvas.palette["vermillion"],
            canvas.palette["blue"],
            canvas.palette["ink"],
        )
        for axes, along in zip(figure.subplots(*shape), ("trials", "minutes"), strict=True):
            canvas.dress(axes)
            tuning_curve.put(axes, done, along, colors)
            axes.set_ylabel("sum over kernels (ms)")
        figure.axes[0].legend()
        return figure

    return Chart("tuning", tuning_curve.TITLE, tuning_curve.described(done), draw, table)
