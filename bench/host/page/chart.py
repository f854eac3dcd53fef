"""One chart: its title, what it says in words, its figures as a table, and how it is drawn.

It is drawn wide and narrow, as text shrunk to a phone cannot be read, and a page shows the one
that fits. The same record gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

from bench.host.page.palette import PAPER, THEMED, Palette, themed
from bench.host.page.table import Table
from bench.host.report import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_WIDTH_IN = {True: 7.4, False: 3.5}
_POINTS = {True: 9.0, False: 8.0}  # of text
_TITLE_IN = 0.3
_PNG_DPI = 200
_LONGEST = 44  # characters of a name in a chart


@dataclass(frozen=True)
class Canvas:
    """What a chart is drawn with: colours, and whether it has a page's width or a phone's."""

    palette: Palette
    wide: bool

    def figure(self, title: str, height_in: float) -> Figure:
        """An empty figure, without pyplot's state or a display; the title adds to its height."""
        from matplotlib.figure import Figure

        size = (_WIDTH_IN[self.wide], height_in + _TITLE_IN)
        made = Figure(figsize=size, layout="constrained", facecolor="none")
        made.suptitle(title, x=0.005, ha="left", weight="bold", fontsize=_POINTS[self.wide] + 1.5)
        return made

    def dress(self, axes: Axes, *, grid: Literal["x", "y", "both"] = "both") -> None:
        """The ground, frame and grid that all charts share."""
        axes.set_facecolor("none")
        axes.grid(visible=False)
        axes.grid(visible=True, axis=grid, color=self.palette["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)

    def thousands(self, axis: Axis) -> None:
        """Numbers along an axis as people write them: 12,500."""
        axis.set_major_formatter(lambda value, _: f"{value:,.6g}")


@dataclass(frozen=True)
class Chart:
    """``words`` are the text alternative, with the figures; ``name`` is that of its files."""

    name: str
    title: str
    words: str
    draw: Callable[[Canvas], Figure]
    table: Table | None = None

    def inline(self, prefix: str, *, wide: bool) -> str:
        """The SVG for a page: its ids begin with ``prefix``, its colours are the page's."""
        drawn = themed(_svg(self.draw, Canvas(THEMED, wide)))
        drawn = drawn[drawn.index("<svg ") :]  # no XML declaration inside HTML
        drawn = re.sub(r'\bid="', f'id="{prefix}-', drawn)
        drawn = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", drawn)
        return self._described(drawn, prefix)

    def svg(self) -> str:
        """The SVG as a file of its own, on white."""
        return self._described(_svg(self.draw, Canvas(PAPER, True), PAPER["ground"]), self.name)

    def png(self) -> bytes:
        """The same as a picture of 1,480 dots across."""
        buffer = io.BytesIO()
        with _style(Canvas(PAPER, True)):
            figure = self.draw(Canvas(PAPER, True))
            figure.savefig(
                buffer,
                format="png",
                dpi=_PNG_DPI,
                facecolor=PAPER["ground"],
                metadata={"Software": None, "Title": plain(self.title)},
            )
        return buffer.getvalue()

    def _described(self, svg: str, prefix: str) -> str:
        start = svg.index("<svg ")
        end = svg.index(">", start)
        # Sizes in points would hold a page back from giving it the room there is.
        head = re.sub(r' (width|height)="[^"]*"', "", svg[start:end])
        words = (
            f'\n <title id="{prefix}-title">{escape(plain(self.title))}</title>'
            f'\n <desc id="{prefix}-words">{escape(plain(self.words))}</desc>'
        )
        accessible = f' role="img" aria-labelledby="{prefix}-title {prefix}-words"'
        return f"{svg[:start]}{head}{accessible}>{words}{svg[end + 1 :]}"


def short(name: str, longest: int = _LONGEST) -> str:
    """A name from a record, fit for a chart: nothing that acts, and not long."""
    shown = plain(name)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def number(value: float) -> str:
    """Three digits that count, in full: 9,123, 12.3, 0.0456."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 0.001:
        return f"{value:.3g}"
    return f"{value:.1e}"


def _svg(draw: Callable[[Canvas], Figure], canvas: Canvas, ground: str = "none") -> str:
    with _style(canvas):
        buffer = io.StringIO()
        draw(canvas).savefig(
            buffer,
            format="svg",
            facecolor=ground,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    # matplotlib's rule for every element there is would be one for the whole page.
    text = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    return text.replace("<svg ", '<svg style="stroke-linejoin: round; stroke-linecap: butt" ', 1)


@contextmanager
def _style(canvas: Canvas) -> Iterator[None]:
    import matplotlib

    ink, soft, points = canvas.palette["ink"], canvas.palette["soft"], _POINTS[canvas.wide]
    settings: dict[Any, Any] = {
        # Text stays text, to be read and searched; ids are those of the content.
        "svg.fonttype": "none",
        "svg.hashsalt": "gpt-frontend",
        # Names may hold what matplotlib would take for formulas.
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
        "font.family": "DejaVu Sans",
        "font.size": points,
        "axes.titlesize": points + 0.5,
        "axes.titlelocation": "left",
        "axes.labelsize": points,
        "xtick.labelsize": points - 0.5,
        "ytick.labelsize": points - 0.5,
        "legend.fontsize": points - 0.5,
        "legend.frameon": False,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.edgecolor": soft,
        "xtick.color": soft,
        "ytick.color": soft,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "hatch.linewidth": 0.8,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A letter that the font lacks is a box in the picture, and whole in the SVG's text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
