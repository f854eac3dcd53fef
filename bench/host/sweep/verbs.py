"""What `invoke sweep` does: the pieces put together, and the words to the user."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, JobFailed, UsageFault
from bench.host import choose, launch, pins, runs
from bench.host.console import ERR, OUT, working
from bench.host.engine import limits
from bench.host.engine.limits import Limits
from bench.host.history.wording import plain
from bench.host.launch import Interrupted
from bench.host.store import Store
from bench.host.sweep import file as files
from bench.host.sweep import leftovers, lock, measured, place, summary
from bench.host.sweep.matrix import Cells, expand
from bench.host.sweep.measured import Held
from bench.host.sweep.pace import Pace, in_words
from bench.host.sweep.place import Spot
from bench.host.sweep.progress import overall
from bench.host.sweep.summary import Line
from bench.record import JobSpec

_NAMED = 5  # failed cells that the error names; the table has all


def sweep(
    path: Path,
    out: Path,
    *,
    engine: str | None,
    bounds: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure what the file asks for and is not measured yet; print a line a cell.

    ``bounds`` are a job's limits, as a user gives them.

    Raises:
        UsageFault: the file, the place or the engine will not do; nothing was measured.
        JobFailed: cells failed, or the sweep was interrupted. What was measured is kept.
    """
    asked = files.read(path)
    cells = expand(asked, path)
    named = engine or asked.engine
    if named not in choose.ENGINES:
        raise UsageFault(f"unknown engine '{named}'", hint=f"--engine {', '.join(choose.ENGINES)}")
    limited = limits.load(bounds, os.environ)
    pinned = pins.load()
    if dry_run:
        spots = place.preview(cells.possible, named, pinned, limited.cpus)
        _tell_spots(spots)
        lines = _lines(out, cells, spots)
        _print(lines, cells, as_json=as_json)
        _say(_counted(lines, cells))
        return
    for cell in cells.possible:
        runs.check_writable(out, cell.spec)
    command = _command(path, out, engine, bounds)
    again = f"what is measured is kept; go on: {command}"
    try:
        with lock.alone(out):
            spots = place.prepare(cells.possible, named, pinned, limited.cpus)
            lines = _measure(out, cells, spots, limited)
    except (KeyboardInterrupt, Interrupted):
        raise JobFailed("the sweep was interrupted", hint=again) from None
    _print(lines, cells, as_json=as_json)
    _say(_counted(lines, cells))
    failed = [line for line in lines if line.state == "failed"]
    if failed:
        told = "".join(f"\n  | {line.cell}: {line.reason}" for line in failed[:_NAMED])
        more = f"\n  | and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        raise JobFailed(
            f"{len(failed)} of {len(lines)} cells failed:{told}{more}",
            hint=f"the next sweep tries them again: {command}",
        )


def _measure(out: Path, cells: Cells, spots: dict[place.Key, Spot], limited: Limits) -> list[Line]:
    store = Store.of(os.environ)
    store.prepare()
    _tell_spots(spots)
    in_image = any(spot.where.in_image for spot in spots.values())
    for said in leftovers.clear(out, containers=in_image):
        _say(said)
    lines = _lines(out, cells, spots)
    pace = _learned(out, lines)
    waiting = [line for line in lines if line.state == "to measure"]
    done = len(lines) - len(waiting)
    if done:
        _say(f"{done} of {len(lines)} cells are measured already")
    with overall(len(lines), lambda: in_words(pace.left())) as show:
        show(done)
        for number, line in enumerate(waiting):
            specs = [_missing(one) for one in waiting[number:]]
            pace.begin(specs)
            started = time.monotonic()
            _run(line, specs[0], out, store, spots[place.key_of(line.cell)], limited)
            taken = time.monotonic() - started
            if line.state == "measured":
                pace.learn(specs[0], taken)
            done += 1
            show(done)
            pace.begin(specs[1:])
            left = f"; {in_words(pace.left())}" if specs[1:] else ""
            said = f"{line.state}: {line.reason}" if line.reason else line.state
            _say(f"[{done}/{len(lines)}] {line.cell}: {said}, {taken:.0f} s{left}")
    return lines


def _run(line: Line, spec: JobSpec, out: Path, store: Store, spot: Spot, limited: Limits) -> None:
    """Measure what ``line`` lacks; a failure is its own, and the sweep goes on."""
    assert spot.choice is not None, "only a dry run has none"
    try:
        record, path = launch.run(
            spec, spot.choice.engine, spot.choice.image, out, store, limits=limited
        )
    except Interrupted:
        raise
    except BenchError as error:
        line.state, line.reason = "failed", error.message
        return
    line.held.add(path.name, record)
    if record.environment is not None and not spot.where.is_content_of(record):
        raise JobFailed(
            "the project changed while the sweep measured it: what came before is of other content",
            hint="leave the code alone while a sweep runs, and start it again",
        )
    if record.environment is not None and not spot.where.is_machine_of(record):
        _say(f"{path.name} saw another machine than this one, and will not count as measured here")
    missing = line.held.missing(line.cell)
    line.state = "failed" if missing else "measured"
    if missing:
        line.reason = record.reason or f"not measured: {', '.join(missing)}"


def _lines(out: Path, cells: Cells, spots: dict[place.Key, Spot]) -> list[Line]:
    """Every cell as the runs under ``out`` have it."""
    with working("looking for what is measured already"):
        held = measured.find(out, cells.possible, {key: one.where for key, one in spots.items()})
    lines = []
    for cell in cells.possible:
        here: Held = held[cell.key]
        lines.append(Line(cell, "to measure" if here.missing(cell) else "found", here))
    return lines


def _learned(out: Path, lines: Sequence[Line]) -> Pace:
    """What the sweep took before it was interrupted says how long the rest will take."""
    pace = Pace()
    for line in lines:
        for run in line.held.runs(line.cell):
            try:
                record = runs.read_record(out / run / runs.RECORD)
            except UsageFault:  # removed meanwhile
                continue
            took = measured.seconds(record)
            if took is not None:
                done = {"backends": record.spec.backends}
                pace.learn(line.cell.spec.model_copy(update=done), took)
    return pace


def _missing(line: Line) -> JobSpec:
    return line.cell.spec.model_copy(update={"backends": line.held.missing(line.cell)})


def _tell_spots(spots: dict[place.Key, Spot]) -> None:
    for why in dict.fromkeys(spot.why for spot in spots.values()):
        ERR.print(plain(why), style="dim", markup=False)


def _print(lines: Sequence[Line], cells: Cells, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary.as_data(lines, cells.impossible), indent=2))
        return
    OUT.file.write("".join(f"{plain(line)}\n" for line in summary.table(lines)))
    OUT.file.flush()
    for said in summary.notes(lines, cells.impossible):
        _say(said)


def _counted(lines: Sequence[Line], cells: Cells) -> str:
    states = [line.state for line in lines]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    counts += [f"{len(cells.impossible)} not possible"] * bool(cells.impossible)
    return f"{len(lines)} cells: {', '.join(counts)}"


def _command(path: Path, out: Path, engine: str | None, bounds: str | None) -> str:
    words = ["invoke", "sweep", str(path)]
    words += ["--engine", engine] if engine else []
    words += ["--limits", bounds] if bounds else []
    words += ["--out", str(out)] if out != Path("results") else []
    return shlex.join(words)


def _say(text: str) -> None:
    ERR.print(plain(text), markup=False)
