"""Asking memory for the weights that come next, while those at hand are multiplied.

A processor guesses what will be read next and asks for it, but not far enough ahead: a panel of
weights then comes while nothing is multiplied, and what follows, over the other rows, is multiplied
while nothing comes. Said early enough, both go on at once.

Where little is multiplied memory is the limit throughout, and some processors are slower if asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.job.compile.names import T, prefetch
from bench.job.compile.schedules.tile import Tile, ceil_div

LINE = 64  # bytes that memory gives at once, on x86 and on most of AArch64
# How far ahead in a stream that is read once, in bytes. Twice as far gained no more, a quarter of
# it a tenth less, with int8.
_NEAR = 2**13
# The fewest rows in one tile for which AMD's Zen, as LLVM names it, is asked, by the bytes of a
# weight. Measured on Zen 4: below, its own guesses come sooner than what is asked for. At eight of
# float32 either was ahead, by what memory did at the time.
_ZEN = "znver"
_LEAST_ROWS = {4: 8, 2: 2, 1: 1}


def is_zen(mcpu: str) -> bool:
    """Whether LLVM's name for a CPU is that of an AMD Zen."""
    return mcpu.startswith(_ZEN)


@dataclass(frozen=True)
class Ahead:
    """What to ask for in each step of K, where ``row_tiles`` tiles of rows pass over each panel.

    The product is by ``tile``, over ``k``, of ``panels`` panels as wide as the tile. ``size`` is
    the bytes of a weight, ``group`` how many panels lie between one and that which takes its place
    in the cache, and ``mcpu`` LLVM's name for the CPU.
    """

    tile: Tile
    k: int
    size: int
    panels: int
    group: int
    row_tiles: int
    mcpu: str

    @property
    def worthwhile(self) -> bool:
        """Whether to ask at all: always, but for few rows on AMD's Zen."""
        one_tile_on_zen = self.row_tiles == 1 and is_zen(self.mcpu)
        return not one_tile_on_zen or self.tile.rows >= _LEAST_ROWS[self.size]

    @property
    def step(self) -> int:
        """The weights that a step of the loop over K reads."""
        return self.tile.unroll * self.tile.columns

    @property
    def steps(self) -> int:
        """How many steps that loop has."""
        return self.k // self.tile.unroll

    @property
    def panel(self) -> int:
        """The weights of a panel."""
        return self.k * self.tile.columns

    @property
    def share(self) -> int:
        """The weights of a panel that are asked for while one of the tiles passes."""
        return ceil_div(self.panel, self.row_tiles)

    @property
    def lines(self) -> int:
        """How many lines to ask for in a step; none where it is not worthwhile."""
        if not self.worthwhile:
            return 0
        asked = self.step if self.row_tiles == 1 else ceil_div(self.share, self.steps)
        return ceil_div(asked * self.size, LINE)

    def place(self, panel: Any, turn: Any, block: Any, line: int, least: Any = min) -> Any:
        """The element to ask for: numbers, or expressions with ``least`` for the lesser of two.

        One tile reads a panel once, so that what comes next is what lies next. Several read it
        again from the cache, and each asks for its share of the panel after.
        """
        offset = line * (LINE // self.size)
        if self.row_tiles == 1:
            at = panel * self.panel + block * self.step + (_NEAR // self.size + offset)
        else:
            within = block * (self.lines * LINE // self.size) + offset
            at = (panel + self.group) * self.panel + turn * self.share + within
        return least(at, self.panels * self.panel - 1)

    def emit(self, weights: Any, panel: Any, turn: Any, block: Any) -> None:
        """Ask for what is to come while tile ``turn`` passes step ``block`` of ``panel``."""
        for line in range(self.lines):
            prefetch(weights, self.place(panel, turn, block, line, T.min))
