"""Many runs as the page shows them: a table of all, lines over lengths, and some in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.host import report
from bench.host.history import entry
from bench.host.page import facts, section
from bench.host.page.chart import Chart
from bench.host.page.lengths import Lengths
from bench.host.page.section import Section
from bench.host.page.table import Table
from bench.record import RunRecord

SECTIONS = 6  # runs that are shown in full: each takes some 300 kB of page


@dataclass(frozen=True)
class Overview:
    """``left_out`` says, in sentences, what there was no room for or could not be read."""

    table: Table
    charts: list[Chart]
    sections: list[Section]
    left_out: list[str]
    total: int
    debug: str | None


def of(found: Iterable[tuple[RunRecord, Path]], left_out: list[str]) -> Overview:
    """What the page says of these runs, oldest first; each is read once and let go of."""
    rows, kinds, built, lengths = [], [], Counter[str](), Lengths()
    newest: list[tuple[RunRecord, Path]] = []
    for record, path in found:
        rows.append(_row(record, path))
        kinds.append("" if record.status == "ok" else "failed")
        lengths.add(record)
        if (kind := facts.debug(record)) is not None:
            built[kind] += 1
        newest = [*newest, (record, path)][-SECTIONS:]
    charts, unseen = lengths.charts()
    said = list(left_out)
    if len(rows) > SECTIONS:
        said.append(
            f"The newest {SECTIONS} of {len(rows)} runs are shown in full; of the others: "
            "invoke report RUN."
        )
    if unseen:
        said.append(f"{unseen} more groups of runs of several lengths have no chart.")
    table = Table("Runs, oldest first", _HEADINGS, rows, text=6, kinds=kinds, filterable=True)
    sections = [
        section.of(record, path, f"r{place}")
        for place, (record, path) in enumerate(reversed(newest), start=1)
    ]
    debug = ", ".join(f"{count} {kind}" for kind, count in sorted(built.items())) or None
    return Overview(table, charts, sections, said, len(rows), debug)


_HEADINGS = (
    "run", "status", "what", "device", "engine", "TVM build",
    "batch", "tokens", "before ms", "after ms", "outcome",
)  # fmt: skip


def _row(record: RunRecord, path: Path) -> tuple[str, ...]:
    cells = {row.cells[1]: dict(zip(report.HEADINGS, row.cells, strict=True))
             for row in report.rows(record) if row.status == "ok"}  # fmt: skip
    before, after = (
        cells.get(role, {}).get("median ms", report.NO_VALUE) for role in ("before", "after")
    )
    speed_up = cells.get("after", {}).get("speed-up", report.NO_VALUE)
    told = entry.of(path.name, record)
    return (
        told.run,
        told.status,
        f"{told.model} {told.mode} {told.dtype}"
        if told.kind == "bench"
        else f"{told.model} {told.kind}",
        told.device,
        told.engine,
        facts.debug(record) or told.build_type or report.NO_VALUE,
        told.batch_size,
        told.seq_len,
        before,
        after,
        speed_up if speed_up != report.NO_VALUE else (told.figure or report.NO_VALUE),
    )
