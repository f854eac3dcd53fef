"""How large a tile of a matrix product the vector registers hold."""

from __future__ import annotations

from dataclasses import dataclass

from bench.job.compile.target import CompileTarget


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
    spread evenly: 64 rows are 6 tiles of 11, of which the last overlaps the fifth by two.
    """
    vectors = 2 if width >= 2 * lanes else 1
    while lanes > width:
        lanes //= 2
    most = max(1, (registers - registers // 4) // vectors)
    rows = ceil_div(m, ceil_div(m, most))
    unroll = next(step for step in (4, 3, 2, 1) if k % step == 0)
    return Tile(rows, vectors, lanes, unroll)
