"""What of a sweep has been measured: asked of the runs themselves, which are the truth."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import UsageFault
from bench.host.history import identity, query
from bench.host.history.query import Filters
from bench.host.sweep.matrix import Cell, Key, identity_of
from bench.host.sweep.place import Key as SpotKey
from bench.host.sweep.place import Where, key_of
from bench.record import JobSpec, Result, RunRecord


@dataclass
class Held:
    """What is known of one cell: the newest row of each backend, and the run it is from."""

    rows: dict[str, tuple[str, Result]] = field(default_factory=dict)

    def missing(self, cell: Cell) -> tuple[str, ...]:
        """The backends that are still to be measured."""
        return tuple(name for name in cell.spec.backends if name not in self.rows)

    def add(self, run: str, record: RunRecord) -> None:
        """Take over the rows of ``record`` that are to be kept; what is held already stays."""
        for row in record.results:
            if row.backend not in self.rows and counts(row, record):
                self.rows[row.backend] = (run, row)

    def runs(self, cell: Cell) -> list[str]:
        """The runs that the cell's rows are from, oldest first."""
        named = (self.rows[name][0] for name in cell.spec.backends if name in self.rows)
        return sorted(set(named))


def counts(row: Result, record: RunRecord) -> bool:
    """Whether a row is a measurement that need not be made again.

    A job that was cut short may have rows of fewer rounds than it was asked for. Only one that
    came to its end has looked at the machine again. A backend that says that it cannot do what is
    asked (float16, say) would say so again; one that failed may do better.
    """
    ended = record.environment is not None and record.environment.after is not None
    return ended and (row.latency_ms is not None if row.status == "ok" else row.status == "skipped")


def find(out: Path, cells: Sequence[Cell], spots: Mapping[SpotKey, Where]) -> dict[Key, Held]:
    """What the runs under ``out`` hold of ``cells`` for the same content on the same machine.

    The index says which records may be of a cell; those are read.
    """
    wanted: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        wanted[_outline(cell.spec)].append(cell)
    held: dict[Key, Held] = {cell.key: Held() for cell in cells}
    found = query.find(out, Filters(kind="bench"))
    newest_first = list(zip(found.entries, found.directories, strict=True))[::-1]
    for entry, name in newest_first:
        outline = (entry.model, entry.mode, entry.device, entry.dtype)
        candidates = wanted.get((*outline, entry.batch_size, entry.seq_len), [])
        if not candidates:
            continue
        try:
            record = identity.read(out / os.fsdecode(name))
            said = identity_of(record.spec)
        except UsageFault:  # damaged since it was indexed: nothing was measured by it
            continue
        for cell in candidates:
            where = spots[key_of(cell)]
            if said == cell.key[0] and where.is_content_of(record) and where.is_machine_of(record):
                held[cell.key].add(os.fsdecode(name), record)
    return held


def seconds(record: RunRecord) -> float | None:
    """How long the job took; None where the machine did not tell the time."""
    where = record.environment
    if where is None or where.before is None or where.after is None:
        return None
    start, end = where.before.uptime_s, where.after.uptime_s
    return end - start if start is not None and end is not None and end > start else None


def _outline(spec: JobSpec) -> tuple[str, ...]:
    return (
        spec.model,
        spec.mode,
        spec.device,
        spec.dtype,
        str(spec.batch_size),
        str(spec.seq_len),
    )
