"""A job: a benchmark's reference and backends, or what it has instead, a process a step.

Light by design: it imports neither torch nor tvm, and rewrites ``outcome.json`` after every
step, so that a job that is killed has handed back what it had.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from bench import jobs
from bench.catalog import OUTCOME_FILE, SCRATCH_DIR
from bench.generation import EvaluateSpec
from bench.job import environment, progress, rounds, system
from bench.jobs import AnySpec
from bench.limits import available_cores
from bench.record import Fault, JobOutcome, JobSpec, Result, StepReport

# Fits what a container is given as its last seconds before it is killed; training has a checkpoint
# to write in them.
_STOP_S = 8


def run(spec_path: Path) -> JobOutcome:
    """Run the spec at ``spec_path``; what comes of it is written beside it."""
    directory = spec_path.parent
    spec = jobs.read(spec_path)
    described = environment.describe().model_copy(update={"before": system.read()})
    outcome = JobOutcome(environment=described)
    _write(directory, outcome)
    scratch = directory / SCRATCH_DIR
    scratch.mkdir(exist_ok=True)
    try:
        if isinstance(spec, JobSpec):
            outcome = _steps(spec_path, spec, directory, scratch, outcome)
        else:
            names = spec.backends if isinstance(spec, EvaluateSpec) else (spec.kind,)
            for name in names:
                outcome = _other(name, spec_path, spec, directory, scratch, outcome)
            outcome = _end(directory, outcome)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return outcome


def _steps(
    spec_path: Path, spec: JobSpec, directory: Path, scratch: Path, outcome: JobOutcome
) -> JobOutcome:
    gated = spec.kind == "bench"
    if gated:
        progress.report(0, len(spec.backends) + 1, "float64 reference")
        report = _step("reference", spec_path, spec, scratch)
        if report.fault is not None:
            return _end(directory, outcome.model_copy(update={"fault": report.fault}))
    faults: list[Fault | None] = []
    schedule = rounds.schedule(spec)
    total = len(schedule) + gated
    for done, (number, name) in enumerate(schedule):
        place = f", round {number + 1} of {spec.rounds}" if spec.rounds > 1 else ""
        progress.report(done + gated, total, f"{name}{place}")
        rows = {result.backend: result for result in outcome.results}
        if number > 0 and rows[name].status != "ok":
            continue  # it failed in a round before: there is nothing to add to
        report = _step(name, spec_path, spec, scratch, number)
        result = report.result or _failed_row(name, spec, report.fault)
        known = outcome.environment.tvm_library or report.tvm_library
        if spec.rounds > 1:
            result = rounds.numbered(result, number, done)
        rows[name] = result if number == 0 else rounds.joined(rows[name], result)
        outcome = outcome.model_copy(
            update={
                "results": list(rows.values()),
                "environment": outcome.environment.model_copy(update={"tvm_library": known}),
            }
        )
        if number == 0:
            faults.append(report.fault)
        _write(directory, outcome)
        print(_said(result), flush=True)
    progress.report(total, total, "done")
    if all(fault is not None and fault.exit_code == 2 for fault in faults):
        # Every backend finds the request impossible: there is nothing worth keeping.
        outcome = outcome.model_copy(update={"fault": faults[0]})
    elif all(result.status == "skipped" for result in outcome.results):
        reason = str(outcome.results[0].reason)
        hint = f"none of the backends can; name another --dtype than {spec.dtype}"
        outcome = outcome.model_copy(
            update={"fault": Fault(message=reason, hint=hint, exit_code=2)}
        )
    return _end(directory, outcome)


def _other(
    name: str, spec_path: Path, spec: AnySpec, directory: Path, scratch: Path, outcome: JobOutcome
) -> JobOutcome:
    """A step of training, generating or evaluating; the first fault is the job's."""
    if outcome.fault is not None:
        return outcome
    try:
        report = _step(name, spec_path, spec, scratch)
    except BaseException:
        # Being stopped is how a training may well end: what it has is in its report.
        left = scratch / f"{name}.json"  # published by one rename, so whole or not there
        if left.is_file():
            report = StepReport.model_validate_json(left.read_bytes())
            _write(directory, _joined(outcome, report))
        raise
    outcome = _joined(outcome, report)
    _write(directory, outcome)
    return outcome


def _joined(outcome: JobOutcome, report: StepReport) -> JobOutcome:
    fault = report.fault
    if report.training is not None and report.training.stopped == "not finite":
        fault = Fault(
            message=str(report.training.reason),
            hint="a lower --learning-rate; the last good checkpoint is kept",
        )
    return outcome.model_copy(
        update={
            "training": report.training,
            "generation": report.generation,
            "evaluations": [
                *outcome.evaluations,
                *([report.evaluation] if report.evaluation else []),
            ],
            "fault": fault,
        }
    )


def _step(name: str, spec_path: Path, spec: AnySpec, scratch: Path, number: int = 0) -> StepReport:
    """Run one step in a child; a child that dies is reported by its signal or exit code."""
    command = [sys.executable, "-m", "bench.job.worker", name, str(spec_path), str(scratch)]
    command.append(str(number))
    (scratch / f"{name}.json").unlink(missing_ok=True)  # what an earlier round said is no answer
    child = subprocess.Popen(command, env=_child_environment(spec))
    try:
        code = child.wait()
    except BaseException:  # the job is being stopped: its child must not outlive it
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
        raise
    report = scratch / f"{name}.json"
    if code == 0 and report.is_file():
        return StepReport.model_validate_json(report.read_bytes())
    return StepReport(fault=Fault(message=_death(code)))


def _child_environment(spec: AnySpec) -> dict[str, str]:
    threads = str(spec.threads or available_cores())
    return {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "TVM_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _death(code: int) -> str:
    if code >= 0:
        return f"the process ended with exit code {code}"
    name = signal.Signals(-code).name
    also = " (out of memory?)" if name == "SIGKILL" else ""
    return f"the process was killed by {name}{also}"


def _failed_row(name: str, spec: JobSpec, fault: Fault | None) -> Result:
    reason = fault.message if fault else "the step said nothing"
    return Result.blank(name, spec).model_copy(update={"status": "failed", "reason": reason})


def _said(result: Result) -> str:
    if result.latency_ms is not None:
        return f"{result.backend}: median {result.latency_ms.median:.3f} ms"
    return f"{result.backend}: {result.status} {result.reason or result.artefact or ''}".rstrip()


def _end(directory: Path, outcome: JobOutcome) -> JobOutcome:
    described = outcome.environment.model_copy(update={"after": system.read()})
    outcome = outcome.model_copy(update={"finished": True, "environment": described})
    _write(directory, outcome)
    return outcome


def _write(directory: Path, outcome: JobOutcome) -> None:
    partial = directory / f"{OUTCOME_FILE}.partial"
    partial.write_text(outcome.model_dump_json())
    partial.replace(directory / OUTCOME_FILE)
