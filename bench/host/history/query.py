"""Which runs a listing shows: the filters, and what they find in the index."""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path

from bench.errors import UsageFault
from bench.host.history import repository
from bench.host.history.entry import Entry, Measured
from bench.host.history.index import Progress, open_index

_ENTRY = [field.name for field in fields(Entry) if field.name != "measured"]


@dataclass(frozen=True)
class Filters:
    """What a run has to be. None lets every run pass.

    ``model``, ``backend`` and ``kind`` are names, in which ``*`` stands for anything; ``commit``
    is the beginning of a commit; ``image`` and ``machine`` are parts of what is shown of them,
    whatever their case, or of an image the beginning of its id or digest.
    """

    model: str | None = None
    backend: str | None = None
    commit: str | None = None
    image: str | None = None
    machine: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {value}" for name, value in given if value is not None)


@dataclass(frozen=True)
class Found:
    """The runs that fit, oldest first; why others could not be read; how many there are in all.

    ``directories`` are parallel to ``entries``, whose names are as they can be shown.
    """

    entries: list[Entry]
    directories: list[bytes]
    problems: list[str]
    total: int


_CONDITIONS = {
    "model": "fits(model, :model)",
    "kind": "fits(kind, :kind)",
    "backend": "directory IN (SELECT directory FROM measured WHERE fits(backend, :backend))",
    "commit": "substr(git_commit, 1, length(:commit)) = lower(:commit)",
    "image": "(instr(lower(image), lower(:image))"
    " OR instr(image_id, 'sha256:' || lower(:image)) = 1 OR instr(image_id, lower(:image)) = 1"
    " OR instr(image_digest, 'sha256:' || lower(:image)) OR instr(image_digest, lower(:image)))",
    "machine": "instr(lower(machine), lower(:machine))",
}


def find(out: Path, filters: Filters, progress: Progress | None = None) -> Found:
    """The runs under ``out`` that fit ``filters``, by the index."""
    memory = open_index(out, progress)
    memory.create_function("fits", 2, fits, deterministic=True)
    given = {name: value for name, value in vars(filters).items() if value is not None}
    where = " AND ".join(["problem IS NULL", *(_CONDITIONS[name] for name in given)])
    rows = memory.execute(
        f"SELECT directory, {', '.join(_ENTRY)} FROM runs WHERE {where} ORDER BY directory", given
    ).fetchall()
    measured = _measured(memory)
    entries = [
        Entry(
            **{**dict(zip(_ENTRY, values, strict=True)), "git_dirty": _truth(values)},
            measured=tuple(measured.get(directory, ())),
        )
        for directory, *values in rows
    ]
    problems = memory.execute(
        "SELECT problem FROM runs WHERE problem IS NOT NULL ORDER BY directory"
    ).fetchall()
    (total,) = memory.execute("SELECT count(*) FROM runs").fetchone()
    directories = [directory for directory, *_ in rows]
    return Found(entries, directories, [problem for (problem,) in problems], total)


def fits(name: str, pattern: str) -> bool:
    """Whether ``name`` is what ``pattern`` says, in which ``*`` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def count(text: str | None, option: str = "--limit") -> int | None:
    """A number of runs as a user gives it; None, and 0, for all of them.

    Raises:
        UsageFault: it is no whole number.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise UsageFault(f"{option} '{text}' is no whole number", hint=f"as in {option} 50")
    return int(text)


def known(out: Path, name: str) -> list[str]:
    """The values that ``name`` (model, kind, backend, image, machine) has among the runs."""
    table = "measured" if name == "backend" else "runs"
    found = open_index(out).execute(
        f"SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL ORDER BY {name}"
    )
    return [value for (value,) in found]


def filters(
    *,
    model: str | None = None,
    backend: str | None = None,
    commit: str | None = None,
    image: str | None = None,
    machine: str | None = None,
    kind: str | None = None,
    root: Path,
) -> Filters:
    """The filters as a user gives them; ``commit`` may be any name that git knows in ``root``.

    Raises:
        UsageFault: a filter is empty, or git knows no such commit.
    """
    given = Filters(model, backend, commit, image, machine, kind)
    for name, value in vars(given).items():
        if value is not None and not value.strip():
            raise UsageFault(f"--{name} is empty", hint=f"leave --{name} out to see every run")
    if commit is not None and not re.fullmatch(r"[0-9a-fA-F]{4,40}", commit):
        commit = repository.commit_of(root, commit)
    return Filters(model, backend, commit, image, machine, kind)


def _measured(memory: sqlite3.Connection) -> dict[bytes, list[Measured]]:
    found: dict[bytes, list[Measured]] = defaultdict(list)
    columns = ", ".join(Measured._fields)
    rows = memory.execute(f"SELECT directory, {columns} FROM measured ORDER BY rowid")
    for directory, backend, status, median_ms, tokens_per_s, unstable in rows:
        found[directory].append(Measured(backend, status, median_ms, tokens_per_s, bool(unstable)))
    return found


def _truth(values: list[object]) -> bool | None:
    dirty = values[_ENTRY.index("git_dirty")]
    return None if dirty is None else bool(dirty)
