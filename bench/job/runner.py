"""A job: the reference, then each backend, each step in a process of its own.

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

from bench.catalog import OUTCOME_FILE, SCRATCH_DIR
from bench.job import environment, progress
from bench.limits import available_cores
from bench.record import Fault, JobOutcome, JobSpec, Result, StepReport

# Fits what a container is given as its last seconds before it is killed.
_STOP_S = 5


def run(spec_path: Path) -> JobOutcome:
    """Run the spec at ``spec_path``; what comes of it is written beside it."""
    directory = spec_path.parent
    spec = JobSpec.model_validate_json(spec_path.read_bytes())
    outcome = JobOutcome(environment=environment.describe())
    _write(directory, outcome)
    scratch = directory / SCRATCH_DIR
    scratch.mkdir(exist_ok=True)
    try:
        outcome = _steps(spec_path, spec, directory, scratch, outcome)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return outcome


def _steps(
    spec_path: Path, spec: JobSpec, directory: Path, scratch: Path, outcome: JobOutcome
) -> JobOutcome:
    gated = spec.kind == "bench"
    total = len(spec.backends) + gated
    if gated:
        progress.report(0, total, "float64 reference")
        report = _step("reference", spec_path, spec, scratch)
        if report.fault is not None:
            return _end(directory, outcome.model_copy(update={"fault": report.fault}))
    faults: list[Fault | None] = []
    for done, name in enumerate(spec.backends, start=int(gated)):
        progress.report(done, total, name)
        report = _step(name, spec_path, spec, scratch)
        result = report.result or _failed_row(name, spec, report.fault)
        known = outcome.environment.tvm_library or report.tvm_library
        outcome = outcome.model_copy(
            update={
                "results": [*outcome.results, result],
                "environment": outcome.environment.model_copy(update={"tvm_library": known}),
            }
        )
        faults.append(report.fault)
        _write(directory, outcome)
        print(_said(result), flush=True)
    progress.report(total, total, "done")
    if all(fault is not None and fault.exit_code == 2 for fault in faults):
        # Every backend finds the request impossible: there is nothing worth keeping.
        outcome = outcome.model_copy(update={"fault": faults[0]})
    return _end(directory, outcome)


def _step(name: str, spec_path: Path, spec: JobSpec, scratch: Path) -> StepReport:
    """Run one step in a child; a child that dies is reported by its signal or exit code."""
    command = [sys.executable, "-m", "bench.job.worker", name, str(spec_path), str(scratch)]
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


def _child_environment(spec: JobSpec) -> dict[str, str]:
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
    outcome = outcome.model_copy(update={"finished": True})
    _write(directory, outcome)
    return outcome


def _write(directory: Path, outcome: JobOutcome) -> None:
    partial = directory / f"{OUTCOME_FILE}.partial"
    partial.write_text(outcome.model_dump_json())
    partial.replace(directory / OUTCOME_FILE)
