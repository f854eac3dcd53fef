"""What a record says, made fit for where it is shown: it may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size

from bench.host import report

_LONGEST = 200  # characters of one text in Markdown


def plain(text: str) -> str:
    """As ``report.plain``, and quick where nothing has to be replaced, which is the rule."""
    return text if text.isprintable() else report.plain(text)


def code(text: str) -> str:
    """``text`` in Markdown, as code: no markup, no HTML, no link, and nobody is mentioned by it."""
    shown = plain(text).replace("`", "'").replace("|", "\\|")
    return f"`{shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + '…'}`"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """A table in Markdown, whose first ``left`` columns are text. Cells are taken as they are."""
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    return [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)]


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A table in plain lines, the first ``left`` columns flush left; ten thousand rows at once."""
    table = [headings, *[[plain(cell) for cell in row] for row in rows]]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            set_cell_size(cell, width) if index < left else " " * (width - cell_len(cell)) + cell
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
