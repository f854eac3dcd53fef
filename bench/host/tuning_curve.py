"""The latency that tuning comes to, by trials and by minutes, as an SVG with its words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host import curve
from bench.record import RunRecord
from bench.tuning import Point, Tuning

if TYPE_CHECKING:
    from collections.abc import Sequence

_TUNED, _BEST, _HAND = "#D55E00", "#0072B2", "#000000"
_SIZE_IN = (10.0, 4.5)
TITLE = "Estimated latency while tuning"


def write(record: RunRecord, path: Path) -> None:
    """Draw the series of the record's tuning, which has at least one point, into ``path``."""
    path.write_text(drawn(record), encoding="utf-8")


def drawn(record: RunRecord) -> str:
    """The curve as the text of an SVG with a title and a description."""
    assert record.tuning is not None
    title = f"{TITLE} {record.spec.model} {record.spec.mode}"
    return curve.worded(_plot(record.tuning, title), title, described(record.tuning))


def described(done: Tuning) -> str:
    """What the curve shows, in a few sentences."""
    last = done.series[-1]
    said = [
        "Two line charts: the sum over kernels of calls times least time, in milliseconds, "
        "by trials and by minutes.",
        f"After {last.trials} trials and {last.minutes:.1f} minutes",
    ]
    tuned = f"{last.tuned_ms:.3f} ms" if last.tuned_ms else "not known, for want of a valid trial,"
    best = f"{last.best_ms:.3f} ms" if last.best_ms else "not known"
    said.append(f"tuned kernels alone come to {tuned} and the faster of both to {best}.")
    if done.hand_ms:
        said.append(f"The hand-written kernels come to {done.hand_ms:.3f} ms.")
    return " ".join(said)


def put(axes: Any, done: Tuning, along: str, colors: tuple[str, str, str]) -> None:
    """Draw the series into ``axes``, along "trials" or "minutes"."""
    points: Sequence[Point] = done.series
    where = [getattr(point, along) for point in points]
    for values, label, color, line in (
        ([point.tuned_ms for point in points], "tuned alone", colors[0], "--"),
        ([point.best_ms for point in points], "the faster of both", colors[1], "-"),
    ):
        known = [(at, ms) for at, ms in zip(where, values, strict=True) if ms is not None]
        if known:
            axes.step(*zip(*known, strict=True), where="post", label=label, color=color,
                      linestyle=line, marker="o", markersize=3)  # fmt: skip
    if done.hand_ms:
        axes.axhline(done.hand_ms, label="hand-written", color=colors[2], linestyle=":")
    axes.set_xlabel(along)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def _plot(done: Tuning, title: str) -> str:
    # Imported here: it takes most of a second, and other verbs need none of it.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt-frontend"}):
        figure = Figure(figsize=_SIZE_IN, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, along in ((left, "trials"), (right, "minutes")):
            put(axes, done, along, (_TUNED, _BEST, _HAND))
            axes.grid(visible=True, alpha=0.3)
        left.set_ylabel("sum over kernels (ms)")
        left.legend()
        figure.suptitle(title, parse_math=False)
        return curve.as_svg(figure)
