"""``invoke profile``: what to profile, from a run or a spec; where each backend's time goes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich import box
from rich.markup import escape
from rich.table import Table

from bench import jobs
from bench.catalog import MODELS, SPEC_FILE
from bench.errors import UsageFault
from bench.host import hub, request, runs
from bench.host import weights as checkpoints
from bench.host.console import OUT
from bench.host.jobs import Place, run_job
from bench.host.report import plain
from bench.operators import TRACE_FILE, Operator, OperatorProfile, kind_of
from bench.record import JobSpec, Result, RunRecord
from bench.training import CHECKPOINT_DIR

# The unoptimised *before* is left out where it is not asked for: a call of it is so long that in
# a timeline the others are points, and every bench has its table anyway.
BACKENDS = "torch-eager,torch-compile,tvm-optimized"
VIEWERS = "https://ui.perfetto.dev or chrome://tracing"
_REST = "between operators"
_NAME_WIDTH, _SHAPES_WIDTH = 28, 18  # with the figures beside them, 80 characters


@dataclass(frozen=True)
class Plan:
    """What is to be profiled, and where."""

    spec: JobSpec
    inputs: Mapping[str, Path]
    place: Place


def run(target: str, out: Path, top: str | None, options: Mapping[str, Any], **place: Any) -> None:
    """Profile ``target``; print the tables, and where the trace is.

    Raises:
        UsageFault: as ``plan``; or ``top`` is no number.
        JobFailed: a backend failed; the run is published all the same.
    """
    rows = _rows(top)
    planned = plan(target, out, options, **place)
    run_job(
        planned.spec,
        planned.place,
        planned.inputs,
        also=lambda record, path: show(record, path, rows),
    )


def plan(target: str, out: Path, options: Mapping[str, Any], **place: Any) -> Plan:
    """The job that profiles ``target``: a preset's name, a spec.json, weights, or a run.

    A run is repeated as it was, where it was, but for its ``operators`` and for what ``options``
    (by the names of ``JobSpec``, None where not given) and ``place`` (of ``Place``) name.

    Raises:
        UsageFault: there is no such thing, it is no benchmark, or it cannot be repeated.
    """
    given = {name: value for name, value in options.items() if value is not None}
    wanted = {"kind": "bench", "operators": "trace"}
    named = {name: value for name, value in place.items() if value is not None}
    elsewhere = Place(**{**named, "out": out})
    path = Path(target)
    if target in MODELS or _is_weights(target):
        weights, model = (None, target) if target in MODELS else (target, None)
        asked = request.job(weights, out, **{"backends": BACKENDS, **given, **wanted}, model=model)
        assert isinstance(asked.spec, JobSpec)
        return Plan(asked.spec, asked.inputs, elsewhere)
    if path.is_file():
        original = _read(path)
    else:
        directory = runs.find(out, target)
        record = runs.read_record(directory / runs.RECORD)
        original = _of_run(directory, record)
        if not {"engine", "profile", "base", "image"} & set(named):
            elsewhere = Place(**{**named, "out": out, **_where(record)})
    spec = request.spec_from(**{**original.model_dump(), **given, **wanted})
    return Plan(spec, _inputs(spec, out), elsewhere)


def show(record: RunRecord, path: Path, rows: int) -> None:
    """Print a table of operators for each backend, one of their kinds, and how to see the trace."""
    profiled = [result for result in record.results if result.operators]
    for result in profiled:
        OUT.print(table(result, rows))
    if len(profiled) > 1:
        OUT.print(kinds(profiled))
    for result in record.results:
        if result.status == "ok" and not result.operators:
            why = f"{result.backend}: its profiler gave nothing; see {path / runs.LOG}"
            OUT.print(plain(why), markup=False, soft_wrap=True)
    if (path / TRACE_FILE).is_file():
        said = f"timeline of every backend: open {path / TRACE_FILE} in {VIEWERS}"
        OUT.print(plain(said), markup=False, soft_wrap=True)


def table(result: Result, rows: int) -> Table:
    """One backend's operators, the dearest first; below them what the others come to.

    Shares are of the profiled call. Names are a compiler's or a record's: they are shown inert.
    """
    profile = result.operators
    assert profile is not None
    title = f"{result.backend}: one call, {profile.call_ms:.2f} ms under its profiler"
    if result.latency_ms:
        title += f" and {result.latency_ms.median:.2f} ms without"
    built = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title=f"\n{escape(plain(title))}",
        title_justify="left",
        title_style="bold",
    )
    built.add_column("operator", no_wrap=True, width=_NAME_WIDTH)
    built.add_column("shapes", no_wrap=True, width=_SHAPES_WIDTH, style="dim")
    for heading, width in (("calls", 5), ("ms", 9), ("share", 6)):
        built.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for name, shapes, calls, ms in _lines(profile, rows):
        share = f"{ms / profile.call_ms:.1%}" if profile.call_ms else "-"
        cells = (name, shapes, calls, f"{ms:.3f}", share)
        built.add_row(*(escape(plain(cell)) for cell in cells))
    return built


def kinds(results: list[Result]) -> Table:
    """What operators are for, backend beside backend: milliseconds of one profiled call."""
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title="")
    built.add_column("ms of one call", no_wrap=True)
    sums: list[dict[str, float]] = []
    for result in results:
        built.add_column(escape(plain(result.backend)), justify="right", no_wrap=True)
        assert result.operators is not None
        sums.append(_by_kind(result.operators))
    for kind in sorted({kind for one in sums for kind in one}, key=lambda kind: _order(kind, sums)):
        built.add_row(kind, *(f"{one[kind]:.3f}" if kind in one else "-" for one in sums))
    return built


def _lines(profile: OperatorProfile, rows: int) -> Iterator[tuple[str, str, str, float]]:
    """Name, shapes, calls, milliseconds: the operators shown, the others' sum, the rest."""
    shown, others = profile.operators[:rows], profile.operators[rows:]
    for one in shown:
        yield one.name, one.shapes or "", f"{one.calls:g}", one.total_ms
    if others:
        calls = sum(one.calls for one in others)
        yield f"{len(others)} others", "", f"{calls:g}", _total(others)
    yield _REST, "", "", _rest(profile)


def _by_kind(profile: OperatorProfile) -> dict[str, float]:
    sums: dict[str, float] = {}
    for one in profile.operators:
        kind = kind_of(one.name)
        sums[kind] = sums.get(kind, 0.0) + one.total_ms
    return {**sums, _REST: _rest(profile)}


def _order(kind: str, sums: list[dict[str, float]]) -> tuple[bool, float, str]:
    return kind == _REST, -max(one.get(kind, 0.0) for one in sums), kind


def _rest(profile: OperatorProfile) -> float:
    # Threads beside each other can come to more than the call took.
    return max(0.0, profile.call_ms - _total(profile.operators))


def _total(operators: list[Operator]) -> float:
    return sum(one.total_ms for one in operators)


def _is_weights(target: str) -> bool:
    """Whether ``target`` is of a hub, or a directory that is not a run's."""
    path = Path(target)
    a_run = (path / runs.RECORD).is_file()
    return target.startswith(hub.SCHEME) or (bool(target) and path.is_dir() and not a_run)


def _read(path: Path) -> JobSpec:
    try:
        spec = jobs.read(path)
    except (OSError, ValidationError, ValueError) as error:
        raise UsageFault(
            f"{path} is no spec that this version can run: {_first_line(error)}",
            hint="name a run, or a model: invoke profile gpt2 --seq-len 64",
        ) from error
    if not isinstance(spec, JobSpec) or spec.kind != "bench":
        raise UsageFault(
            f"{path} asks for {spec.kind}, not for a benchmark",
            hint="name a run of `invoke bench`, or a model: invoke profile gpt2 --seq-len 64",
        )
    return spec


def _of_run(directory: Path, record: RunRecord) -> JobSpec:
    kind = record.spec.kind
    if kind != "bench":
        trained = directory / CHECKPOINT_DIR
        hint = (
            f"profile its weights: invoke profile {trained} --seq-len 64"
            if trained.is_dir()
            else "`invoke results --kind bench` lists the runs that can be"
        )
        raise UsageFault(f"the run {directory.name} is no benchmark: its kind is {kind}", hint=hint)
    spec = _read(directory / SPEC_FILE)
    if spec.recorded() != record.spec:
        raise UsageFault(
            f"{SPEC_FILE} and {runs.RECORD} of the run {directory.name} do not agree",
            hint="one of them is edited: name a model instead, as in invoke profile gpt2",
        )
    return spec


def _where(record: RunRecord) -> dict[str, str]:
    """Where a run was, as ``Place`` names it."""
    if record.engine == "docker" and record.image:
        return {"engine": "docker", "image": record.image.id}
    return {"engine": "local"} if record.engine == "local" else {}


def _inputs(spec: JobSpec, out: Path) -> dict[str, Path]:
    """What the spec asks for beside itself, found again and the same.

    Raises:
        UsageFault: the weights are gone, or are others now.
    """
    if spec.weights is None:
        return {}
    source = spec.weights.source
    hint = "profile what is there: invoke profile DIRECTORY, or invoke profile hf:gpt2"
    try:
        found = checkpoints.resolve(source.removeprefix("run "), out, os.environ)
    except UsageFault as fault:
        raise UsageFault(
            f"the weights of that run, {source}, cannot be had: {fault.message}", hint=hint
        ) from fault
    if found.sha256 != spec.weights.sha256:
        raise UsageFault(
            f"{source} has other weights now: sha256 {found.sha256[:12]}…, and that run had "
            f"{spec.weights.sha256[:12]}…",
            hint=hint,
        )
    return {"weights": found.directory}


def _rows(top: str | None) -> int:
    if top is None:
        return 15
    if not top.isdecimal() or int(top) < 1:
        raise UsageFault(f"--top {top!r}: not a number from 1", hint="as in --top 30")
    return int(top)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return (str(error).splitlines() or [type(error).__name__])[0]
