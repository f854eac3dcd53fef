"""The loss curve of a training run as an SVG that also says in words what it shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from bench.training import Point, Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which stays apart for most colour-blind readers; the lines differ
# by dashes and markers too.
_TRAIN, _VALIDATION = "#0072B2", "#D55E00"
_SIZE_IN = (8.0, 4.5)


def write(training: Training, path: Path) -> None:
    """Draw the curve of ``training``, which has at least one point, into ``path``.

    The same record gives the same bytes.
    """
    path.write_text(drawn(training), encoding="utf-8")


def drawn(training: Training) -> str:
    """The curve as the text of an SVG with a title and a description for who cannot see it."""
    return worded(_plot(training.curve, _title(training)), _title(training), described(training))


def worded(svg: str, title: str, description: str) -> str:
    """A chart's SVG with a title and a description for who cannot see it."""
    start = svg.index("<svg ")
    end = svg.index(">", start)
    words = (
        f'\n <title id="title">{escape(title)}</title>'
        f'\n <desc id="description">{escape(description)}</desc>'
    )
    accessible = ' role="img" aria-labelledby="title description"'
    return svg[:end] + accessible + ">" + words + svg[end + 1 :]


def described(training: Training) -> str:
    """What the curve shows, in a few sentences."""
    first, last = training.curve[0], training.curve[-1]
    said = [
        "A line chart: cross-entropy loss in nats per token by training step, for the training "
        "and the validation split.",
        f"At step {first.step:,} the training loss is {first.train_loss:.4f} and the validation "
        f"loss {first.val_loss:.4f}.",
    ]
    if last is not first:
        said.append(
            f"At step {last.step:,} they are {last.train_loss:.4f} and {last.val_loss:.4f}."
        )
    if training.best_val_loss is not None and training.best_step is not None:
        said.append(
            f"The lowest validation loss is {training.best_val_loss:.4f}, "
            f"at step {training.best_step:,}."
        )
    if training.reason:
        said.append(f"It ended early: {training.reason}.")
    return " ".join(said)


def _title(training: Training) -> str:
    name = training.text.rsplit("/", 1)[-1]
    return f"Loss of {training.preset} on {name} ({training.parameters:,} parameters)"


def _plot(curve: Sequence[Point], title: str) -> str:
    # Imported here: it takes most of a second, and other verbs need none of it.
    import matplotlib
    from matplotlib.figure import Figure

    steps = [point.step for point in curve]
    # Text stays text, to be read and searched; ids are those of the content.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt-frontend"}):
        figure = Figure(figsize=_SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        for losses, label, color, line, marker in (
            ([point.train_loss for point in curve], "training", _TRAIN, "--", "o"),
            ([point.val_loss for point in curve], "validation", _VALIDATION, "-", "s"),
        ):
            axes.plot(
                steps, losses, label=label, color=color, linestyle=line, marker=marker, markersize=4
            )
        # Names of files may hold what matplotlib would take for formulas.
        axes.set_title(title, parse_math=False)
        axes.set_xlabel("training step")
        axes.set_ylabel("cross-entropy loss (nats per token)")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(title="split")
        return as_svg(figure)


def as_svg(figure: Figure) -> str:
    """A figure as the text of an SVG, the same bytes each time."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
