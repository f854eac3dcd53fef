"""A table as the page shows it: text in cells, and which columns are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """``text`` columns come first and are words; the others are numbers, and sorted as such.

    ``kinds`` marks rows by a word for the style sheet (``failed``, ``before``), parallel to
    ``rows`` where there are any. ``filterable``: it is long enough to be searched.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1
    kinds: Sequence[str] = ()
    filterable: bool = False

    def kind(self, row: int) -> str:
        """What the style sheet is told of a row."""
        return self.kinds[row] if self.kinds else ""


def pairs(caption: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Facts with their names."""
    return Table(caption, ("what", "value"), rows, text=2, filterable=len(rows) > 12)
