"""What the user sees while work goes on: a bar on a terminal, nothing where there is none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)

_PROGRESS = re.compile(r"progress (\d+) (\d+) (.+)")

Update = Callable[[str], None]


@contextlib.contextmanager
def working(what: str) -> Iterator[Update]:
    """A spinner with the time elapsed; call what is yielded to say what is being done now."""
    with _bar() as progress:
        task = progress.add_task(what, total=None)
        yield lambda now: progress.update(task, description=f"{what}: {_short(now)}")


@contextlib.contextmanager
def job_progress(what: str) -> Iterator[Update]:
    """A bar that follows a job's output lines: those that tell progress move it."""
    with _bar() as progress:
        task = progress.add_task(what, total=None)

        def update(line: str) -> None:
            told = _PROGRESS.fullmatch(line)
            if told:
                done, total, now = told.groups()
                progress.update(
                    task, completed=int(done), total=int(total), description=f"{what}: {now}"
                )

        yield update


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
