"""The colours of the charts, twice: as a page's variables, and as they are on white paper.

The hues are Okabe and Ito's, which stay apart for most colour-blind readers, made darker for white
ground and lighter for black until each has a contrast of 3 to 1 with it. No colour is the only
sign of anything: bars have hatches, lines have dashes and markers, and all have their names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.catalog import RUNGS


@dataclass(frozen=True)
class Look:
    """How a backend is drawn: the name of its colour, and what tells it apart without colour."""

    color: str
    hatch: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


# Name: (on white, on black). templates/page.css takes both from here.
COLORS = {
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#57606a", "#a9b1ba"),
    "grid": ("#d5dae0", "#3a414a"),
    "ground": ("#ffffff", "#14171b"),
    "blue": ("#0072b2", "#56b4e9"),
    "vermillion": ("#c64f00", "#f0803c"),
    "green": ("#007a58", "#2fc296"),
    "purple": ("#a8447f", "#dd8fb8"),
    "orange": ("#9a6a00", "#e69f00"),
    "yellow": ("#7d7300", "#f0e442"),
    "grey": ("#6b7280", "#9aa3ad"),
}

_LOOKS = {
    "tvm-none": Look("vermillion", "//", "s", "--"),
    "tvm-optimized": Look("blue", "", "o", "-"),
    "tvm-bf16": Look("blue", "--", "<", (0, (5, 2, 1, 2))),
    "tvm-int8": Look("blue", "++", ">", (0, (1, 2))),
    "tvm-tuned": Look("blue", "**", "h", "--"),
    "tvm-default": Look("purple", "..", "D", ":"),
    "torch-eager": Look("orange", "\\\\", "^", "-."),
    "onnxruntime": Look("yellow", "oo", "X", (0, (3, 1, 1, 1))),
    "torch-compile": Look("green", "xx", "v", (0, (5, 1))),
}
_OTHER = Look("grey", "--", "P", ":")
# The rungs between before and after have one colour, and each its own hatch and marker.
_RUNGS = {
    name: Look("grey", hatch, marker, ":")
    for name, hatch, marker in zip(RUNGS, ("|", "-", "o", "+", "O"), "<>p*h", strict=True)
}

# A colour that stands for a variable until the SVG is text; none of them is used for itself.
_STANDS_FOR = {name: f"#fe01{number:02x}" for number, name in enumerate(COLORS)}


@dataclass(frozen=True)
class Palette:
    """Colours by name, as matplotlib takes them."""

    colors: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.colors[name]

    def of(self, backend: str) -> str:
        """The colour of a backend."""
        return self.colors[look(backend).color]


THEMED = Palette(_STANDS_FOR)
PAPER = Palette({name: light for name, (light, _) in COLORS.items()})


def look(backend: str) -> Look:
    """How ``backend`` is drawn; a name that is not ours is grey."""
    return _LOOKS.get(backend) or _RUNGS.get(backend, _OTHER)


def themed(svg: str) -> str:
    """``svg``, drawn with ``THEMED``, with a page's variables for colours.

    Each has its colour on white beside it, for whatever does not know the variable.
    """
    names = {code: name for name, code in _STANDS_FOR.items()}
    return re.sub(
        r"#fe01[0-9a-f]{2}",
        lambda found: f"var(--{names[found[0]]}, {COLORS[names[found[0]]][0]})",
        svg,
    )


def variables(dark: bool) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLORS.items())
