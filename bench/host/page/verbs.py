"""What `invoke report` does: runs found and read, the page and its figures written, opened."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError, UsageFault
from bench.host import caller, report, runs
from bench.host.console import ERR, OUT, Update, working
from bench.host.history import identity, query
from bench.host.history.query import Filters
from bench.host.page import overview, render, section
from bench.host.page.chart import Chart
from bench.record import RunRecord

EVERY = ("all", "--all")  # Invoke hands a plea for all of them on as the name of a run
PAGE = "report.html"
DEFAULT_LIMIT = 1000


def write(
    named: str,
    out: Path,
    filters: Filters,
    *,
    limit: int | None,
    to: Path | None,
    figures: Path | None,
    show: bool,
) -> None:
    """Write the report of one run, or of several, and say where it is.

    Raises:
        UsageFault: no run fits, none can be read, or the file cannot be written.
    """
    names = [name.strip() for name in named.split(",") if name.strip()]
    with working("report") as say:
        if len(names) == 1 and names[0] not in EVERY:
            _without(filters)
            page, charts, path = _of_one(runs.find(out, names[0]))
        else:
            page, charts, path = _of_many(names, out, filters, limit, say)
        written = to or path
        publish(written, page.encode())
        if figures is not None:
            _figures(figures, charts, say)
    OUT.print(f"report: {written}", markup=False, soft_wrap=True)
    if show:
        _open(written)


def _of_one(path: Path) -> tuple[str, list[tuple[str, Chart]], Path]:
    made = section.of(identity.read(path), path, "r1")
    charts = [(chart.name, chart) for chart in made.charts]
    return render.one(made), charts, path / PAGE


def _of_many(
    names: list[str], out: Path, filters: Filters, limit: int | None, say: Update
) -> tuple[str, list[tuple[str, Chart]], Path]:
    left_out: list[str] = []
    if len(names) == 1:
        paths = _every(out, filters, limit, left_out, say)
    else:
        _without(filters)
        if not names:
            raise UsageFault("no run is named", hint="a run, several with commas, or --all")
        paths = list(dict.fromkeys(runs.find(out, name) for name in names))
    made = overview.of(_read(paths, left_out, say), left_out)
    if not made.total:
        raise UsageFault(
            f"none of {len(paths)} runs can be read: {left_out[-1]}", hint="invoke results"
        )
    charts = [(chart.name, chart) for chart in made.charts]
    charts += [
        (f"{report.plain(one.record.run_id)}-{chart.name}", chart)
        for one in made.sections
        for chart in one.charts
    ]
    return render.many(made), charts, out / PAGE


def _every(
    out: Path, filters: Filters, limit: int | None, left_out: list[str], say: Update
) -> list[Path]:
    found = query.find(out, filters, say)
    left_out += [f"Skipped: {problem}" for problem in found.problems]
    for problem in found.problems:
        ERR.print(f"skipped: {report.plain(problem)}", markup=False)
    paths = [out / os.fsdecode(name) for name in found.directories]
    if not paths:
        told = f" that fits {filters}" if str(filters) else ""
        raise UsageFault(f"there is no run under {out}/{told}", hint="invoke results lists them")
    if limit and len(paths) > limit:
        left_out.append(f"The newest {limit:,} of {len(paths):,} runs; --limit 0 takes all.")
        ERR.print(f"the newest {limit} of {len(paths)} runs; --limit 0 takes all", markup=False)
        paths = paths[-limit:]
    return paths


def _read(paths: list[Path], left_out: list[str], say: Update) -> Iterator[tuple[RunRecord, Path]]:
    """The records, one at a time; one that cannot be read is named, and no harm to the rest."""
    for done, path in enumerate(paths, start=1):
        if done % 50 == 0:
            say(f"{done} of {len(paths)} records read")
        try:
            record = identity.read(path)
        except BenchError as error:
            left_out.append(f"Skipped: {error.message}")
            ERR.print(f"skipped: {report.plain(error.message)}", markup=False)
        else:
            yield record, path


def _without(filters: Filters) -> None:
    if str(filters):
        raise UsageFault(f"{filters}: filters go with --all", hint="invoke report --all")


def publish(to: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and is its caller's under sudo.

    Raises:
        UsageFault: it cannot be written.
    """
    temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        owner = caller.sudo_caller(os.environ)
        if owner is not None:
            caller.give(temporary, owner)
        temporary.replace(to)
    except OSError as error:
        raise UsageFault(
            f"cannot write to {to}: {error.strerror or error}", hint="name another file: --to FILE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _figures(folder: Path, charts: list[tuple[str, Chart]], say: Update) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageFault(
            f"cannot write to {folder}: {error.strerror or error}", hint="--figures DIR"
        ) from error
    for name, chart in charts:
        say(name)
        file = name.replace("/", "_")
        publish(folder / f"{file}.svg", chart.svg().encode())
        publish(folder / f"{file}.png", chart.png())
    ERR.print(f"{len(charts)} figures, as SVG and PNG, in {folder}", markup=False, soft_wrap=True)


def _open(path: Path) -> None:
    """Show the page in a browser, or say where it is: on a server there is none."""
    try:
        opened = webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        opened = False
    if opened:
        return
    how = "open it by hand"
    if shutil.which("wslview"):
        how = f"wslview {path}"
    elif shutil.which("explorer.exe"):
        how = f'explorer.exe "$(wslpath -w {path})"'
    ERR.print(f"no browser could be opened here: {how}", markup=False, soft_wrap=True)
