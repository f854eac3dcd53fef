"""What the verbs over many runs do: the pieces put together, and the words to the user."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bench.errors import BenchError, UsageFault
from bench.host import runs
from bench.host.console import ERR, OUT, working
from bench.host.history import bisect as bisecting
from bench.host.history import compare as comparing
from bench.host.history import export as exporting
from bench.host.history import identity, measuring, query, repository, verdicts
from bench.host.history.entry import Entry
from bench.host.history.query import Filters
from bench.host.history.wording import columns, plain
from bench.record import RunRecord

ROOT = Path(__file__).resolve().parents[3]
_NONE = "-"
_HEADINGS = ("run", "status", "engine")
_FORMS = ("text", "markdown", "json")
EVERY = "all"  # in the place of runs: every one that the filters let pass


def results(out: Path, filters: Filters, *, limit: int | None, as_json: bool) -> None:
    """One line a run, oldest first; a record that cannot be read is named and skipped."""
    with working("reading records") as say:
        found = query.find(out, filters, say)
    shown = found.entries[-limit:] if limit else found.entries
    if as_json:
        print(json.dumps([entry.as_data() for entry in shown], indent=2))
    elif shown:
        _print(_table(shown, filters.backend))
    elif not found.total:
        _print([f"no runs under {out}/ yet: invoke bench"])
    else:
        told = f"none of {found.total} runs is of {filters}"
        _print([told, *_what_there_is(out, filters)])
    if limit and len(found.entries) > limit:
        _say(f"the last {limit} of {len(found.entries)} runs; --limit 0 shows all")
    for problem in found.problems:
        _say(f"skipped: {problem}")


def compare(
    base: str,
    new: str,
    out: Path,
    *,
    backends: Sequence[str],
    allow: Sequence[str],
    fail_if_slower: str | None,
    form: str,
) -> None:
    """Print how two runs compare.

    Raises:
        UsageFault: they cannot be compared.
        JobFailed: the new one is slower by more than ``fail_if_slower`` allows.
    """
    if form not in _FORMS:
        raise UsageFault(f"unknown format '{form}'", hint=f"--format {', '.join(_FORMS)}")
    threshold = comparing.threshold(fail_if_slower) if fail_if_slower is not None else None
    read = [identity.read(runs.find(out, run)) for run in (base, new)]
    made = comparing.compare(read[0], read[1], allow=allow, backends=backends)
    fault = None
    if threshold is not None:
        try:
            comparing.demand_not_slower(made, threshold)
        except BenchError as error:
            fault = error  # after what it is said of has been printed
    if form == "json":
        print(json.dumps(verdicts.data(made), indent=2))
    elif form == "markdown":
        print(verdicts.comment(made, failed=fault.message if fault else None), end="")
    else:
        _print(verdicts.lines(made))
    if fault is not None:
        raise fault


def export(named: str, out: Path, filters: Filters, *, form: str | None, to: Path | None) -> None:
    """Write runs for other tools, to a file or to standard output.

    Raises:
        UsageFault: no run fits, one cannot be read or said in the format, or the file cannot be
            written.
    """
    chosen = exporting.format_of(form, to)
    if to is None and chosen == "parquet" and sys.stdout.isatty():
        raise UsageFault("Parquet is not for a terminal", hint="name a file: --to runs.parquet")
    records = _records(named, out, filters)
    if to is None:
        exporting.FORMATS[chosen](records, sys.stdout.buffer)
        sys.stdout.flush()
        return
    with _published(to) as stream:
        exporting.FORMATS[chosen](records, stream)
    _say(f"{chosen} written to {to}")


def bisect(
    good: str,
    bad: str,
    out: Path,
    *,
    backend: str,
    arguments: Sequence[str],
    allow: Sequence[str],
    least: str,
) -> None:
    """Find the commit since which a backend is slower, and say which.

    Raises:
        UsageFault: there is nothing to search, or nothing to search by.
        JobFailed: an end cannot be measured.
    """
    measure = measuring.by_bench([*arguments, "--backends", backend], out)

    def told(commit: str, tree: Path) -> RunRecord:
        _say(f"measuring {commit[:12]} {repository.subject(ROOT, commit)}")
        return measure(commit, tree)

    found = bisecting.bisect(
        ROOT,
        good,
        bad,
        backend,
        told,
        allow=allow,
        least_effect=comparing.threshold(least, "--least"),
        on_step=lambda step, left: _say(f"{step}; {left} commits may be it"),
    )
    what = "the first slow commit"
    if len(found.commits) > 1:
        what = "one of these, as those that could not be measured were skipped"
    _print(
        [
            f"{backend} takes {comparing.change(found.effect)} at {bad}; {what}:",
            *(f"{commit} {repository.subject(ROOT, commit)}" for commit in found.commits),
        ]
    )


def options(text: str) -> list[str]:
    """Options as a shell would split them.

    Raises:
        UsageFault: a quotation mark is left open.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageFault(f"--bench {text}: {error}", hint="close the quotation mark") from error


def _records(named: str, out: Path, filters: Filters) -> Iterator[RunRecord]:
    """The runs that are meant, read one at a time as they are asked for."""
    if named == EVERY:
        found = query.find(out, filters)
        for problem in found.problems:
            _say(f"skipped: {problem}")
        if not found.entries:
            raise UsageFault(f"no run under {out}/ fits", hint="invoke results lists them")
        return (identity.read(out / os.fsdecode(name)) for name in found.directories)
    if str(filters):
        raise UsageFault(f"{filters}: filters go with '{EVERY}'", hint=f"invoke export {EVERY}")
    paths = [runs.find(out, run.strip()) for run in named.split(",") if run.strip()]
    if not paths:
        raise UsageFault("no run is named", hint=f"a run, several with commas, or {EVERY}")
    return map(identity.read, paths)


@contextlib.contextmanager
def _published(to: Path) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all."""
    temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(to)
    except OSError as error:
        raise UsageFault(
            f"cannot write to {to}: {error.strerror or error}", hint="name another file: --to FILE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _table(entries: Sequence[Entry], backend: str | None) -> list[str]:
    if backend is None:
        headings = [*_HEADINGS, "before ms", "after ms", "outcome"]
        return columns(headings, [_cells(entry) for entry in entries], left=3)
    # The pattern may stand for several: a line each.
    headings = [*_HEADINGS, "commit", "backend", "median ms", "tokens/s"]
    rows = [
        (
            *_first(entry),
            (entry.git_commit or _NONE)[:10] + ("*" if entry.git_dirty else ""),
            one.backend,
            _number(one.median_ms, ".2f") + ("?" if one.unstable else ""),
            _number(one.tokens_per_s, ".0f"),
        )
        for entry in entries
        for one in entry.measured
        if query.fits(one.backend, backend)
    ]
    return columns(headings, rows, left=5)


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        *_first(entry),
        _number(entry.before_ms, ".1f"),
        _number(entry.after_ms, ".1f"),
        entry.outcome or _NONE,
    )


def _first(entry: Entry) -> tuple[str, str, str]:
    debug = f" ({entry.build_type})" if entry.build_type not in (None, "Release") else ""
    return (entry.run, entry.status, entry.engine + debug)


def _what_there_is(out: Path, filters: Filters) -> Iterator[str]:
    """For each filter that is given, what could have been."""
    for name in ("model", "kind", "backend", "image", "machine"):
        if getattr(filters, name) is not None:
            yield f"  {name}: {', '.join(query.known(out, name)) or 'none'}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _print(lines: Sequence[str]) -> None:
    # Not by rich, which lays out ten thousand lines in seconds.
    OUT.file.write("".join(f"{plain(line)}\n" for line in lines))
    OUT.file.flush()


def _say(text: str) -> None:
    ERR.print(plain(text), markup=False)
