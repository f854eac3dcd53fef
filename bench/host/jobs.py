"""Jobs from the user's request to the printed outcome, whatever their kind."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import JobFailed
from bench.host import choose, launch, pins, report, runs
from bench.host.console import ERR, OUT
from bench.host.engine import limits
from bench.host.store import Store
from bench.jobs import AnySpec
from bench.record import RunRecord


@dataclass(frozen=True)
class Place:
    """Where a job is to run and its run to be kept: the options that all jobs share."""

    engine: str = "auto"
    profile: str | None = None
    base: str | None = None
    image: str | None = None
    out: Path = Path("results")
    limits: str | None = None


def run_job(
    spec: AnySpec,
    place: Place,
    inputs: Mapping[str, Path] | None = None,
    also: Callable[[RunRecord, Path], None] | None = None,
) -> None:
    """Choose an engine, run the spec on it, print what came of it, and what ``also`` prints.

    Raises:
        UsageFault: the request cannot be met.
        JobFailed: the job ran and failed; its run is published all the same.
    """
    record, path = _run(spec, place, inputs, None)
    print_run(record)
    if also is not None:
        also(record, path)
    OUT.print(f"kept in {path}", markup=False, soft_wrap=True)
    OUT.print(f"as a page: invoke report {path}", style="dim", markup=False, soft_wrap=True)
    if record.status == "failed":
        raise _failed(record, path)


def generate(spec: AnySpec, place: Place, inputs: Mapping[str, Path], prompt: str) -> None:
    """The same for text, which is printed as it comes: standard output is prompt and text alone.

    Raises:
        UsageFault, JobFailed: as ``run_job``.
    """
    with _printed(prompt) as on_text:
        record, path = _run(spec, place, inputs, on_text)
    if record.status == "failed":
        raise _failed(record, path)
    for line in report.account(record):
        ERR.print(line, style="dim", markup=False)
    ERR.print(f"kept in {path}", style="dim", markup=False)


def print_run(record: RunRecord) -> None:
    """What came of a run, as its kind is told."""
    OUT.print(report.headline(record), markup=False)
    if record.spec.kind == "compile":
        for result in record.results:
            state = "found" if result.compile_cached else "compiled"
            done = f"{state}, {result.compile_s:.1f} s" if result.compile_s else result.reason
            line = report.plain(f"{result.backend}: {done}  {result.artefact or ''}")
            OUT.print(line, markup=False, soft_wrap=True)
        return
    if record.results:
        OUT.print(report.table(record))
    for line in report.sentences(record):
        OUT.print(line, markup=False, soft_wrap=True)
    said = report.summary(record)
    if said:
        OUT.print(said, style="bold", markup=False)


def _run(
    spec: AnySpec,
    place: Place,
    inputs: Mapping[str, Path] | None,
    on_text: Callable[[str], None] | None,
) -> tuple[RunRecord, Path]:
    store = Store.of(os.environ)
    bounds = limits.load(place.limits, os.environ)
    pinned = pins.load()
    gpu = spec.device == "cuda" and spec.kind != "compile"
    profile = place.profile
    if spec.device == "cuda" and profile is None and place.image is None:
        profile = pinned.defaults.gpu_profile
    runs.check_writable(place.out, spec)
    chosen = choose.choose(place.engine, profile, place.base, gpu, pinned, place.image)
    ERR.print(f"{chosen.engine.name}: {chosen.why}", style="dim", markup=False)
    store.prepare()
    return launch.run(
        spec,
        chosen.engine,
        chosen.image,
        place.out,
        store,
        inputs=inputs,
        on_text=on_text,
        limits=bounds,
    )


def _failed(record: RunRecord, path: Path) -> JobFailed:
    tail = launch.log_tail(path)
    shown = "".join(f"\n  | {line}" for line in tail)
    log = path / runs.LOG
    return JobFailed(f"the job failed: {record.reason}{shown}", hint=f"the whole log is {log}")


@contextlib.contextmanager
def _printed(prompt: str) -> Iterator[Callable[[str], None]]:
    """Standard output for text from a model, which may be anything: it is shown inert."""
    begun = False

    def on_text(text: str) -> None:
        nonlocal begun
        sys.stdout.write(_inert(text if begun else prompt + text))
        sys.stdout.flush()
        begun = True

    try:
        yield on_text
    finally:
        if begun:
            sys.stdout.write("\n")
            sys.stdout.flush()


def _inert(text: str) -> str:
    return "".join(c if c in "\n\t" else report.plain(c) for c in text)
