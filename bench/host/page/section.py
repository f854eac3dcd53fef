"""One run as the page shows it: what there is to say, chart by chart and table by table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.catalog import AFTER, BEFORE
from bench.host import launch, report
from bench.host.page import bars, calls, facts, loss, operators, roof, tuning
from bench.host.page.chart import Chart
from bench.host.page.table import Table
from bench.record import RunRecord

LARGEST_DATA = 2 * 2**20  # bytes of a record that is embedded whole
_LOG_LINE = 400  # characters of a line of the log that are shown


@dataclass(frozen=True)
class Tile:
    """One figure that the run is about, and what it is."""

    value: str
    label: str


@dataclass(frozen=True)
class Part:
    """A heading, with what is under it."""

    name: str
    title: str
    lines: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    text: list[str] = field(default_factory=list)  # shown as it is, line by line
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A run: ``prefix`` begins its ids, ``data`` is its record as JSON, None where too large."""

    record: RunRecord
    prefix: str
    headline: str
    debug: str | None
    tiles: list[Tile]
    summary: str | None
    notes: list[str]
    log: list[str]
    parts: list[Part]
    missing: list[tuple[str, str]]
    data: str | None
    path: str

    @property
    def charts(self) -> list[Chart]:
        return [chart for part in self.parts for chart in part.charts]


def of(record: RunRecord, path: Path, prefix: str) -> Section:
    """What the page says of ``record``, whose run lies in ``path``."""
    parts = [one for one in _parts(record) if one.charts or one.tables or one.lines or one.text]
    return Section(
        record=record,
        prefix=prefix,
        headline=report.headline(record),
        debug=facts.debug(record),
        tiles=_tiles(record),
        summary=report.summary(record),
        notes=report.notes(record),
        log=[line[:_LOG_LINE] for line in launch.log_tail(path)] if record.status != "ok" else [],
        parts=parts,
        missing=_missing(record),
        data=_data(record),
        path=str(path),
    )


def results(record: RunRecord) -> Table | None:
    """The table of the terminal and of report.md, with all its columns."""
    rows = report.rows(record)
    if not rows:
        return None
    roles = {"before": "before", "after": "after"}
    kinds = [row.status if row.status != "ok" else roles.get(row.cells[1], "") for row in rows]
    # A column without a value, as the time to the first token of a prefill, only takes room; the
    # last ones have tables of their own.
    kept = [
        place
        for place in range(len(report.HEADINGS) - report.ELSEWHERE)
        if any(row.cells[place] != report.NO_VALUE for row in rows)
    ]
    return Table(
        "Every backend",
        [report.HEADINGS[place] for place in kept],
        [[row.cells[place] for place in kept] for row in rows],
        text=report.LEFT,
        kinds=kinds,
        filterable=True,
    )


def _parts(record: RunRecord) -> list[Part]:
    table = results(record)
    lines = [*report.comparisons(record), *report.on_device(record)]
    return [
        Part("results", "Results", lines, [], [table] if table else []),
        Part("before-after", "Before and after", charts=_some(bars.before_and_after(record))),
        Part(
            "account",
            "What the run did",
            report.account(record),
            [*_some(loss.loss(record)), *_some(tuning.tuning(record))],
        ),
        Part("text", "The text", text=_text(record)),
        Part("calls", "How the calls are distributed", charts=_some(calls.distributions(record))),
        Part("roofline", "Roofline", report.rooflines(record), _some(roof.roofline(record))),
        Part(
            "operators",
            "Where the time goes",
            charts=operators.charts(record),
            tables=_tables(operators.table(record)),
        ),
        Part(
            "cost",
            "What it costs",
            charts=_some(bars.cost(record)),
            tables=_tables(facts.energy(record)),
        ),
        Part("parity", "Parity: is it right?", tables=_tables(facts.parity(record))),
        Part("facts", "Environment and pins", tables=facts.tables(record), folded=True),
    ]


def _tiles(record: RunRecord) -> list[Tile]:
    cells = {row.cells[0]: dict(zip(report.HEADINGS, row.cells, strict=True))
             for row in report.rows(record) if row.status == "ok"}  # fmt: skip
    found = []
    for backend, word in ((BEFORE, "before"), (AFTER, "after")):
        if backend in cells and record.spec.kind == "bench":
            found.append(Tile(f"{cells[backend]['median ms']} ms", f"{word} ({backend})"))
    if len(found) == 2:
        found.append(Tile(cells[AFTER]["speed-up"], "after against before"))
    peers = [
        (float(figures["median ms"]), name, figures)
        for name, figures in cells.items()
        if figures["role"] == "peer" and figures["median ms"] != "-"
    ]
    if peers and record.spec.kind == "bench":
        _, name, figures = min(peers, key=lambda one: one[:2])
        found.append(Tile(f"{figures['median ms']} ms", f"best peer ({name})"))
    done = record.training
    if done is not None and done.best_val_loss is not None:
        found.append(Tile(f"{done.best_val_loss:.4f}", "best validation loss (nats a token)"))
        found.append(Tile(f"{done.steps_done:,}", "steps"))
        found.append(Tile(f"{done.parameters:,}", "parameters"))
    made = record.generation
    if made is not None and made.token_ms:
        found.append(Tile(f"{1e3 / made.token_ms:.0f}", f"tokens a second ({made.backend})"))
    for one in record.evaluations:
        found.append(Tile(f"{one.perplexity:.4f}", f"perplexity ({one.backend})"))
    return found


def _text(record: RunRecord) -> list[str]:
    made = record.generation
    return (made.prompt + made.text).split("\n") if made else []


def _missing(record: RunRecord) -> list[tuple[str, str]]:
    """What a run of this kind could have shown, and how to get it."""
    if record.spec.kind != "bench":
        return []
    measured = [row for row in record.results if row.latency_ms]
    found = []
    if not any(row.roofline for row in measured):
        found.append(
            ("Roofline", "this run did not measure what the machine can do: invoke bench, again")
        )
    if not any(row.operators for row in measured):
        found.append(
            ("Where the time goes", "this run did not profile its operators: invoke bench, again")
        )
    if measured and not report.comparisons(record):
        found.append(("Intervals over rounds", "measure several: invoke bench --rounds 10"))
    found.append(
        ("Latency against length", "name runs of several lengths: invoke report RUN,RUN,…")
    )
    return found


def _data(record: RunRecord) -> str | None:
    text = json.dumps(record.model_dump(mode="json"), ensure_ascii=True)
    return text if len(text) <= LARGEST_DATA else None


def _some(chart: Chart | None) -> list[Chart]:
    return [chart] if chart else []


def _tables(table: Table | None) -> list[Table]:
    return [table] if table else []


def embedded(value: Any) -> str:
    """JSON text, fit to stand in a script element: it cannot end it, nor begin a comment."""
    return str(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
