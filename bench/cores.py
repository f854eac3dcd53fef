"""Lists of processor cores, as the kernel writes them (``0-3,6``), and being held to some.

Shared by both sides: the host reads what a user asks for, the job does it. Plain standard library
but for the type that records have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from bench.errors import UsageFault

TOPOLOGY = Path("/sys/devices/system/cpu")
_MOST = 1 << 16  # of a list: Linux has no machine with more, and a typing error may ask for any


def _each_once(cores: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(cores)) != len(cores):
        raise ValueError("a core is named twice")
    return cores


Cores = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=_MOST)], ...],
    Field(min_length=1),
    AfterValidator(_each_once),
]
"""Core numbers, each once, at least one."""


def parse(text: str) -> tuple[int, ...]:
    """``0-3,6`` as (0, 1, 2, 3, 6).

    Raises:
        UsageFault: it is no list of cores, it is empty, or it names a core twice.
    """
    hint = "numbers and ranges of them, as in --pin 0-3,6; `lscpu -e` lists the cores"
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", part)
        if match is None:
            raise UsageFault(f"--pin {text}: not a list of cores", hint=hint)
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last >= _MOST:
            raise UsageFault(f"--pin {text}: {part.strip()} is no range of cores", hint=hint)
        found += range(first, last + 1)
    if len(set(found)) != len(found):
        raise UsageFault(f"--pin {text}: a core is named twice", hint=hint)
    return tuple(found)


def listed(cores: Iterable[int]) -> str:
    """(0, 1, 2, 3, 6) as ``0-3,6``: sorted, as the kernel writes it."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def hold(wanted: Iterable[int], topology: Path = TOPOLOGY) -> None:
    """Let this thread, and what it starts from now on, run on ``wanted`` alone.

    Raises:
        UsageFault: some of them are not this process's to use; the hint says which are.
    """
    asked, allowed = set(wanted), os.sched_getaffinity(0)
    if not asked <= allowed:
        raise UsageFault(
            f"cannot pin to {_named(asked - allowed)}: only {listed(allowed)} may be used here",
            hint=f"--pin with some of {listed(allowed)}{_shared(allowed, topology)}",
        )
    os.sched_setaffinity(0, asked)


def siblings(cores: Iterable[int], topology: Path = TOPOLOGY) -> list[tuple[int, ...]]:
    """Those of ``cores`` that are hyper-threads of one physical core, together; [] if none are."""
    found = set()
    among = set(cores)
    for core in among:
        try:
            text = (topology / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
            together = tuple(sorted(among & set(parse(text))))
        except (OSError, UsageFault):  # not told, or in words of a later kernel
            continue
        if len(together) > 1:
            found.add(together)
    return sorted(found)


def _shared(cores: Iterable[int], topology: Path) -> str:
    groups = siblings(cores, topology)
    if not groups:
        return ""
    return f"; of these share a physical core: {' and '.join(map(listed, groups[:8]))}" + (
        " and more" if len(groups) > 8 else ""
    )


def _named(cores: set[int]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {listed(cores)}"
