"""How large a tile of a matrix product the vector registers hold."""

from __future__ import annotations

from dataclasses import dataclass

from bench.job.compile.target import CompileTarget

# Lines in a set of the first-level cache, of AMD's Zen and of Intel's CPUs before Ice Lake (later
# ones have twelve). There are 64 sets of 64-byte lines, so that rows a multiple of 4 KiB apart, as
# GPT-2's of 3,072 floats are, all lie in one set: more of them in a tile evict each other.
_WAYS = 8


@dataclass(frozen=True)
class Tile:
    """A register tile: ``rows`` by ``vectors * lanes`` float32, over ``unroll`` steps of K."""

    rows: int
    vectors: int
    lanes: int
    unroll: int

    @property
    def columns(self) -> int:
        """The width, in elements."""
        return self.vectors * self.lanes


def ceil_div(a: int, b: int) -> int:
    """The least whole number that is not below a / b."""
    return -(-a // b)


def panel_width(target: CompileTarget) -> int:
    """The columns of a packed weight that lie together: two vector registers."""
    return 2 * target.lanes


def choose(m: int, k: int, width: int, lanes: int, registers: int) -> Tile:
    """The tile for ``m`` rows of ``k`` products and at most ``width`` columns.

    Two vectors wide, so that one load of the left operand feeds two multiply-adds. As many
    rows as leave registers for the two vectors of the right operand and for the broadcasts,
    if they are all: the panel is then read once. Else at most ``_WAYS``, spread evenly: with 32
    registers 100 rows are 13 tiles of 8, of which the last overlaps the twelfth by four.
    """
    vectors = 2 if width >= 2 * lanes else 1
    while lanes > width:
        lanes //= 2
    most = max(1, (registers - registers // 4) // vectors)
    if m > most:
        most = min(most, _WAYS)
    rows = ceil_div(m, ceil_div(m, most))
    unroll = next(step for step in (4, 3, 2, 1) if k % step == 0)
    return Tile(rows, vectors, lanes, unroll)
