"""Runs as a page: charts, tables and words in one file."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.history import _FILTERS
from bench.tasks.options import JOB


@verb(
    help={
        "runs": "a run (its id or part of it, `last`, or its directory), several with commas, or "
        "--all (the filters say which)",
        "to": "the file to write (default: results/<run-id>/report.html; of several runs "
        "results/report.html)",
        "figures": "write every chart as SVG and PNG into this directory too",
        "open": "show it in a browser",
        "limit": "of --all, take so many of the newest (default: 1000; 0: every one)",
        **_FILTERS,
        "out": JOB["out"],
    }
)
def report(
    c: Context,
    runs: str,
    to: str | None = None,
    figures: str | None = None,
    open: bool = False,
    limit: str | None = None,
    model: str | None = None,
    backend: str | None = None,
    commit: str | None = None,
    image: str | None = None,
    machine: str | None = None,
    kind: str | None = None,
    out: str = "results",
) -> None:
    """Write one HTML file that shows a run, or several: it needs no network and no other file."""
    help_if_asked(runs, "report")
    from bench.host.history import query
    from bench.host.history.verbs import ROOT
    from bench.host.page import verbs

    filters = query.filters(
        model=model,
        backend=backend,
        commit=commit,
        image=image,
        machine=machine,
        kind=kind,
        root=ROOT,
    )
    verbs.write(
        runs,
        Path(out),
        filters,
        limit=verbs.DEFAULT_LIMIT if limit is None else query.count(limit),
        to=Path(to) if to else None,
        figures=Path(figures) if figures else None,
        show=open,
    )
