"""One run from spec to published record: the flow that every engine shares."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from bench import jobs, training, tuning
from bench.catalog import OUTCOME_FILE, SCRATCH_DIR
from bench.errors import JobFailed, UsageFault
from bench.host import (
    aftermath,
    curve,
    git,
    local_content,
    report,
    runs,
    stats,
    tuning_curve,
    untrusted,
)
from bench.host.console import ERR, job_progress
from bench.host.engine.base import Ending, Engine, Launch
from bench.host.engine.limits import Limits
from bench.host.interrupts import held
from bench.host.runs import RunDirectory
from bench.host.store import Store
from bench.jobs import TEXT_LINE, AnySpec
from bench.record import ImageRef, JobOutcome, JobSpec, Result, RunRecord

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 15
_TAIL_BYTES = 2**16
# A job's word is bounded before it is read, its talk before it is kept.
_OUTCOME_BYTES = 2**28
_LOG_BYTES = 2**28


class Interrupted(JobFailed):
    """The user ended the run; what the job had done is published."""


def run(
    spec: AnySpec,
    engine: Engine,
    image: ImageRef | None,
    out: Path,
    store: Store,
    *,
    inputs: Mapping[str, Path] | None = None,
    on_text: Callable[[str], None] | None = None,
    limits: Limits | None = None,
) -> tuple[RunRecord, Path]:
    """Run ``spec`` on ``engine`` and publish what came of it under ``out``.

    ``inputs`` are what the spec asks for beside itself, and ``on_text`` is given generated text
    as it comes. A job that fails, is killed, times out or is interrupted is published too. A
    request that could not be met leaves nothing. ``limits`` are what the job may take, with a
    disk budget for this run where they have none.

    Returns:
        The record, and the directory it was published in.

    Raises:
        UsageFault: ``out`` cannot be written, the engine cannot start the job, or the job
            found its request impossible.
        Interrupted: the user ended it; what it had done is published.
    """
    content = local_content.of(ROOT) if image is None else None
    directory = runs.create(out, spec)
    launch = Launch(
        run_id=directory.run_id,
        run_dir=directory.path,
        store=store.root,
        timeout_s=spec.timeout_s,
        gpu=spec.device == "cuda" and spec.kind != "compile",  # which needs none
        inputs={name: path.resolve() for name, path in (inputs or {}).items()},
        limits=(limits or Limits()).of_run(
            runs.needed_mib(spec) * 2**20, shutil.disk_usage(directory.path).free
        ),
        pin=spec.pin if isinstance(spec, JobSpec) else None,
    )
    assert set(launch.inputs) == set(spec.inputs), "the host lays out what the spec asks for"
    try:
        ending = _follow(engine, launch, directory, spec, on_text)
    except KeyboardInterrupt:
        with held():
            _, path = _publish(directory, spec, engine, image, content, "interrupted by the user")
        again = "; what it measured is kept: the same command goes on"
        on = again if spec.kind == "tune" else _resume(path)
        hint = f"what the job had done is kept in {path}{on}"
        raise Interrupted("interrupted", hint=hint) from None
    except BaseException as error:
        with held():
            if training.settle(directory.path) is None:
                directory.discard()
            else:  # hours of training: whatever went wrong, they are kept
                reason = f"{type(error).__name__}: {error}"
                _publish(directory, spec, engine, image, content, reason)
        raise
    outcome = _outcome(directory)
    impossible = outcome and outcome.fault and outcome.fault.exit_code == UsageFault.exit_code
    if impossible and training.settle(directory.path) is None:
        assert outcome is not None and outcome.fault is not None
        directory.discard()
        raise UsageFault(outcome.fault.message, hint=outcome.fault.hint)
    record, path = _publish(directory, spec, engine, image, content, _reason(ending, outcome))
    store.trim()
    return record, path


def _resume(path: Path) -> str:
    """How to go on with a published run, where it left something to go on with."""
    if not (path / training.CHECKPOINT_DIR).is_dir():
        return ""
    return f"; go on: invoke train --resume {path}"


def log_tail(path: Path) -> list[str]:
    """The last lines of a published run's log, without the lines that tell progress."""
    try:
        text = untrusted.tail(path / runs.LOG, _TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines()
    return [line for line in lines if not line.startswith(("progress ", TEXT_LINE))][-_TAIL:]


def _follow(
    engine: Engine,
    launch: Launch,
    directory: RunDirectory,
    spec: AnySpec,
    on_text: Callable[[str], None] | None,
) -> Ending:
    # Unbuffered: what a killed host had been told is in the log, and a full disk says so at once.
    what = f"{spec.kind} {spec.model}"
    written = 0
    with directory.log.open("w+b", buffering=0) as log, job_progress(what) as show:

        def note(line: str) -> None:
            nonlocal written
            if written > _LOG_BYTES:
                return
            encoded = f"{line}\n".encode(errors="replace")
            written += len(encoded)
            if written > _LOG_BYTES:
                encoded = b"the log ends here: it is too long\n"
            log.write(encoded)

        def on_line(line: str) -> None:
            try:
                note(line)
            except OSError as error:
                raise UsageFault(
                    f"cannot write {directory.log}: {error.strerror}",
                    hint="free space, or name another directory: --out DIR",
                ) from error
            text = jobs.text_of(line)
            if on_text is not None and text is not None:
                on_text(text)
            else:
                show(line)

        try:
            ending = engine.run(launch, on_line)
        finally:
            with held():
                for said in aftermath.tidy(directory, spec, log):
                    ERR.print(f"the job tampered with its run: {said}", markup=False)
        if ending.cause == "disk budget":
            told = "; ".join((str(ending.detail), *aftermath.cut(launch)))
            ending = dataclasses.replace(ending, detail=told)
        return ending


def _outcome(directory: RunDirectory) -> JobOutcome | None:
    try:
        text = untrusted.read(directory.path / OUTCOME_FILE, _OUTCOME_BYTES)
        return JobOutcome.model_validate_json(text)
    except (OSError, ValidationError):  # killed before it wrote one
        return None


def _reason(ending: Ending, outcome: JobOutcome | None) -> str | None:
    """Why the run failed; None where it did not: only a job that says so has succeeded."""
    if not ending.clean:
        return ending.reason()
    if outcome is None or not outcome.finished:
        return "the job ended without an outcome"
    if outcome.fault is not None:
        return outcome.fault.told
    failed = [result for result in outcome.results if result.status == "failed"]
    if failed:
        names = ", ".join(f"{result.backend} ({result.reason})" for result in failed)
        return f"{len(failed)} of {len(outcome.results)} backends failed: {names}"
    return None


def _judged(result: Result, outcome: JobOutcome | None) -> Result:
    """``result`` with the reasons, if any, for which its figures should not be quoted."""
    latency = result.latency_ms
    if latency is None or outcome is None:
        return result
    where = outcome.environment
    reasons = stats.instability(
        latency.samples, latency.process, latency.order, where.before, where.after
    )
    return result.model_copy(update={"unstable": [*result.unstable, *reasons]})


def _publish(
    directory: RunDirectory,
    spec: AnySpec,
    engine: Engine,
    image: ImageRef | None,
    content: str | None,
    reason: str | None,
) -> tuple[RunRecord, Path]:
    outcome = _outcome(directory)
    results = list(outcome.results) if outcome else []
    reached = {result.backend for result in results}
    table = spec.backends if isinstance(spec, JobSpec) else ()
    results += [
        Result.blank(name, spec).model_copy(
            update={"status": "skipped", "reason": f"not reached: {reason}"}
        )
        for name in table
        if isinstance(spec, JobSpec) and name not in reached
    ]
    results = [_judged(result, outcome) for result in results]
    environment = None
    if outcome:
        commit, dirty = git.state(ROOT)
        environment = outcome.environment.model_copy(
            update={"git_commit": commit, "git_dirty": dirty}
        )
    record = RunRecord(
        run_id=directory.run_id,
        status="ok" if reason is None else "failed",
        reason=reason,
        engine=engine.name,
        image=image,
        # Edited while the job ran: nobody knows which of the two it was.
        content=content if content and content == local_content.of(ROOT) else None,
        environment=environment,
        spec=spec.recorded(),
        results=results,
        training=outcome.training if outcome else None,
        generation=outcome.generation if outcome else None,
        evaluations=outcome.evaluations if outcome else [],
        tuning=outcome.tuning if outcome else None,
    )
    training.settle(directory.path)
    try:
        if record.training and record.training.curve:
            curve.write(record.training, directory.path / training.LOSS_CURVE)
        if record.tuning and record.tuning.series:
            tuning_curve.write(record, directory.path / tuning.CURVE)
    except Exception as error:  # a picture is no reason to lose the record
        ERR.print(f"no curve was drawn: {error}", markup=False)
    (directory.path / OUTCOME_FILE).unlink(missing_ok=True)
    (directory.path / f"{OUTCOME_FILE}.partial").unlink(missing_ok=True)
    shutil.rmtree(directory.path / SCRATCH_DIR, ignore_errors=True)  # a killed job could not
    return record, directory.publish(record, report.markdown(record))
