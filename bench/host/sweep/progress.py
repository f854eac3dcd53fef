"""The overall bar of a sweep, above the bar of the job that is running."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from bench.host.console import ERR


class _Left(ProgressColumn):
    """Asked anew at each refresh, so that it counts down while a cell is measured."""

    def __init__(self, left: Callable[[], str]) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        return Text(self._left())


@contextlib.contextmanager
def overall(total: int, left: Callable[[], str]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; call what is yielded with the number of cells that are done."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Left(left),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )
    with bar:
        task = bar.add_task("sweep", total=total)
        yield lambda done: bar.update(task, completed=done)
