"""The loss curve of a training run, in the page's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import training
from bench.host import curve
from bench.host.page.chart import Canvas, Chart
from bench.host.page.table import Table
from bench.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = "Loss while training"


def loss(record: RunRecord) -> Chart | None:
    """Training and validation loss by step; None where there is no point."""
    done = record.training
    if done is None or not done.curve:
        return None
    points = done.curve
    header, *lines = training.loss_table(points).splitlines()
    table = Table(
        "Points of the curve",
        header.split(","),
        [line.split(",") for line in lines],
        text=0,
        filterable=False,
    )

    def draw(canvas: Canvas) -> Figure:
        figure = canvas.figure(_TITLE, 3.8 if canvas.wide else 3.4)
        axes = figure.add_subplot()
        canvas.dress(axes)
        steps = [point.step for point in points]
        for losses, label, color, dash, marker in (
            ([point.train_loss for point in points], "training", "blue", "--", "o"),
            ([point.val_loss for point in points], "validation", "vermillion", "-", "s"),
        ):
            axes.plot(
                steps,
                losses,
                label=label,
                color=canvas.palette[color],
                linestyle=dash,
                marker=marker,
                markersize=4,
            )
        axes.set_xlabel("training step")
        axes.set_ylabel("cross-entropy loss (nats per token)")
        axes.legend(title="split")
        return figure

    return Chart("loss", _TITLE, curve.described(done), draw, table)
