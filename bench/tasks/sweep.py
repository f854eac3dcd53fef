"""A matrix of runs from one file."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.options import JOB


@verb(
    help={
        "file": "a TOML file of axes and options, as docs/sweeps/gpt2-lengths.toml",
        "engine": "auto, docker or local, whatever the file says",
        "dry-run": "print the cells: what is measured already, what is not, what is impossible",
        "limits": JOB["limits"],
        "json": "print the cells as JSON, with their runs and medians",
        "out": JOB["out"],
    }
)
def sweep(
    c: Context,
    file: str,
    engine: str | None = None,
    dry_run: bool = False,
    limits: str | None = None,
    json: bool = False,
    out: str = "results",
) -> None:
    """Measure every cell of a matrix that is not measured yet; kill it and type it again."""
    help_if_asked(file, "sweep")
    from bench.host.sweep import verbs

    verbs.sweep(Path(file), Path(out), engine=engine, bounds=limits, dry_run=dry_run, as_json=json)
