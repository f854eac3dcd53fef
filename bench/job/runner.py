"""A job: a benchmark's reference and backends, or what it has instead, a process a step.

Light by design: it imports neither torch nor tvm, and rewrites ``outcome.json`` after every
step, so that a job that is killed has handed back what it had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import cores, jobs
from bench.catalog import OUTCOME_FILE, SCRATCH_DIR
from bench.errors import BenchError
from bench.generation import EvaluateSpec
from bench.job import death, environment, profile, progress, rating, rounds, system
from bench.jobs import AnySpec
from bench.limits import available_cores
from bench.record import Fault, JobOutcome, JobSpec, Result, StepReport

# Fits what a container is given as its last seconds before it is killed; training has a checkpoint
# to write in them.
_STOP_S = 8
_PEAK = "peak"
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def run(spec_path: Path) -> JobOutcome:
    """Run the spec at ``spec_path``; what comes of it is written beside it."""
    directory = spec_path.parent
    spec = jobs.read(spec_path)
    fault = _pin(spec)
    described = environment.describe().model_copy(update={"before": system.read()})
    outcome = JobOutcome(environment=described, fault=fault)
    _write(directory, outcome)
    if fault is not None:
        return _end(directory, outcome)
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


def _pin(spec: AnySpec) -> Fault | None:
    """Hold this process and its children to the spec's cores; the fault where that cannot be."""
    if not isinstance(spec, JobSpec) or spec.pin is None:
        return None
    try:
        cores.hold(spec.pin)
    except BenchError as error:
        return Fault(message=error.message, hint=error.hint, exit_code=error.exit_code)
    for group in cores.siblings(spec.pin):
        print(f"cores {cores.listed(group)} are threads of one physical core", flush=True)
    return None


def _steps(
    spec_path: Path, spec: JobSpec, directory: Path, scratch: Path, outcome: JobOutcome
) -> JobOutcome:
    gated = spec.kind == "bench"
    if gated:
        progress.report(0, len(spec.backends) + 2, "float64 reference")
        report = _step("reference", spec_path, spec, scratch)
        if report.fault is not None:
            return _end(directory, outcome.model_copy(update={"fault": report.fault}))
        progress.report(1, len(spec.backends) + 2, _PEAK)
        outcome = _with_peak(outcome, _step(_PEAK, spec_path, spec, scratch))
        _write(directory, outcome)
    before = 2 * gated  # steps that are no backend's
    faults: list[Fault | None] = []
    schedule = rounds.schedule(spec)
    total = len(schedule) + before
    for done, (number, name) in enumerate(schedule):
        place = f", round {number + 1} of {spec.rounds}" if spec.rounds > 1 else ""
        progress.report(done + before, total, f"{name}{place}")
        rows = {result.backend: result for result in outcome.results}
        if number > 0 and rows[name].status != "ok":
            continue  # it failed in a round before: there is nothing to add to
        try:
            report = _step(name, spec_path, spec, scratch, number)
        except BaseException:  # stopped: if in its profiler, then it had measured
            aside = _aside(scratch, name)
            if aside.is_file():
                report = StepReport.model_validate_json(aside.read_bytes())
                _write(directory, _with_row(outcome, spec, name, report, number, done)[0])
            raise
        outcome, result = _with_row(outcome, spec, name, report, number, done)
        if number == 0:
            faults.append(report.fault)
        _write(directory, outcome)
        print(_said(result), flush=True)
    if gated:
        if spec.rounds > 1:  # long enough for a first look to have been a bad one
            progress.report(total, total, _PEAK)
            outcome = _with_peak(outcome, _step(_PEAK, spec_path, spec, scratch))
        peak = outcome.environment.peak
        doubted = [rating.doubted(rating.rated(row, spec, peak)) for row in outcome.results]
        outcome = outcome.model_copy(update={"results": doubted})
    progress.report(total, total, "done")
    if all(fault is not None and fault.exit_code == 2 for fault in faults):
        # Every backend finds the request impossible: there is nothing worth keeping.
        outcome = outcome.model_copy(update={"fault": faults[0]})
    elif all(result.status == "skipped" for result in outcome.results):
        reason = str(outcome.results[0].reason)
        hint = f"none of the backends can; name others, or another --dtype than {spec.dtype}"
        outcome = outcome.model_copy(
            update={"fault": Fault(message=reason, hint=hint, exit_code=2)}
        )
    return _end(directory, outcome)


def _with_row(
    outcome: JobOutcome, spec: JobSpec, name: str, report: StepReport, number: int, place: int
) -> tuple[JobOutcome, Result]:
    """``outcome`` with what a backend's process of the round ``number`` says, and that alone."""
    rows = {result.backend: result for result in outcome.results}
    result = report.result or _failed_row(name, spec, report.fault)
    if spec.rounds > 1:
        result = rounds.numbered(result, number, place)
    joined = result if number == 0 else rounds.joined(rows[name], result)
    rows[name] = rating.rated(joined, spec, outcome.environment.peak)
    known = outcome.environment.tvm_library or report.tvm_library
    described = outcome.environment.model_copy(update={"tvm_library": known})
    outcome = outcome.model_copy(update={"results": list(rows.values()), "environment": described})
    return outcome, result


def _with_peak(outcome: JobOutcome, report: StepReport) -> JobOutcome:
    """``outcome`` with a peak that was measured; a job goes on without one."""
    if report.fault is not None:
        print(f"no roofline: {report.fault.message}", flush=True)
    where = rating.with_peak(outcome.environment, report.peak)
    return outcome.model_copy(update={"environment": where})


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
    if report.tuning is not None and report.tuning.stopped == "tuner died":
        fault = Fault(
            message=f"the tuner died {report.tuning.reason}",
            hint="the log has what it said; what it measured is kept, the same command goes on",
        )
    return outcome.model_copy(
        update={
            "training": report.training,
            "generation": report.generation,
            "tuning": report.tuning,
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
    report, aside = scratch / f"{name}.json", _aside(scratch, name)
    report.unlink(missing_ok=True)  # what an earlier round said is no answer
    aside.unlink(missing_ok=True)
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
    if code == 0 and report.is_file():
        return StepReport.model_validate_json(report.read_bytes())
    fault = death.of(code)
    if aside.is_file():
        print(f"{name}: in its profiler {fault.message}; the row is kept without operators")
        return StepReport.model_validate_json(aside.read_bytes())
    return StepReport(fault=fault)


def _aside(scratch: Path, name: str) -> Path:
    return scratch / f"{name}{profile.MEASURED}"


def _child_environment(spec: AnySpec) -> dict[str, str]:
    threads = str(spec.threads or available_cores())
    inherited = dict(os.environ)
    if isinstance(spec, JobSpec) and spec.pin is not None:
        # OpenMP's own binding ties the thread that starts TVM's pool, and so the whole pool, to one
        # core; TVM's counts from core 0, whatever it is allowed. Both stay within the mask without.
        for name in _BINDING:
            inherited.pop(name, None)
        inherited["TVM_BIND_THREADS"] = "0"
    return {
        **inherited,
        "OMP_NUM_THREADS": threads,
        "TVM_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _failed_row(name: str, spec: JobSpec, fault: Fault | None) -> Result:
    reason = fault.told if fault else "the step said nothing"
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
