"""One step of a job in a process of its own: ``python -m bench.job.worker STEP SPEC OUT ROUND``.

STEP is ``reference`` or the name of a backend; or the kind of a job that has but one step.
Backends share no process: torch and tvm fight over cores, and what one loads or leaks must not
show in the next one's numbers.
"""

from __future__ import annotations

import errno
import resource
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

from bench import jobs
from bench.catalog import GATED_CALLS, WEIGHT_DTYPES
from bench.errors import BenchError, NotHere
from bench.generation import EvaluateSpec, GenerateSpec
from bench.job import (
    backends,
    death,
    driver,
    evaluate,
    generate,
    measure,
    models,
    modes,
    peak,
    reference,
    train,
)
from bench.job.backends.base import Backend, Prepared, Programs
from bench.job.profile import taking
from bench.job.tune import supervise
from bench.jobs import AnySpec
from bench.limits import available_cores
from bench.record import Fault, JobSpec, Parity, Result, StepReport, TvmLibrary
from bench.training import TrainSpec
from bench.tuning import TuneSpec

MIB = 2**20


def main(argv: list[str]) -> int:
    step, spec_path, out, number = argv[0], Path(argv[1]), Path(argv[2]), int(argv[3])
    spec = jobs.read(spec_path)
    signal.signal(signal.SIGTERM, _stop)  # so that training keeps its checkpoint
    try:
        report = run_step(step, spec, out, number)
    except NotHere as error:
        fault = Fault(message=error.message, hint=error.hint, exit_code=error.exit_code)
        assert isinstance(spec, JobSpec)  # a row beside others: it does not fail their run
        skipped = {"status": "skipped", "reason": fault.told}
        row = Result.blank(step, spec).model_copy(update=skipped)
        report = StepReport(fault=fault, result=row)
    except BenchError as error:
        fault = Fault(message=error.message, hint=error.hint, exit_code=error.exit_code)
        report = StepReport(fault=fault)
    except OSError as error:
        traceback.print_exc()
        full = error.errno == errno.ENOSPC
        hint = "free space, or name another directory: --out DIR" if full else None
        fault = Fault(message=str(error), hint=hint, exit_code=2 if full else 1)
        report = StepReport(fault=fault)
    except MemoryError:
        report = StepReport(fault=Fault(message="out of memory", hint=death.MEMORY))
    except Exception as error:  # a backend may raise anything; the log has the traceback
        traceback.print_exc()
        said = f"{type(error).__name__}: {_first_line(error)}"
        report = StepReport(fault=Fault(message=said, hint=_hint(error)))
    partial = out / f"{step}.partial"
    partial.write_text(report.model_dump_json())
    partial.rename(out / f"{step}.json")
    return 0


def _hint(error: Exception) -> str | None:
    """What to do about an error of a library, where it is known."""
    if isinstance(error, torch.OutOfMemoryError):
        return "a smaller --model, --batch-size or --seq-len; nvidia-smi shows who else is on it"
    # PyTorch's on a CPU is a RuntimeError like any other.
    return death.MEMORY if "can't allocate memory" in str(error) else None


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run_step(step: str, spec: AnySpec, out: Path, number: int = 0) -> StepReport:
    """Do ``step`` and say what came of it; ``number`` is the round, counted from 0.

    ``out`` is a directory in that of the run: the reference's arrays are written to it.
    """
    torch.manual_seed(spec.seed)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if isinstance(spec, TrainSpec):
        return StepReport(training=train.run(spec, out.parent))
    if isinstance(spec, GenerateSpec):
        return StepReport(generation=generate.run(spec))
    if isinstance(spec, EvaluateSpec):
        return StepReport(evaluation=evaluate.run(step, spec))
    if isinstance(spec, TuneSpec):
        driver.ensure()  # before anything imports tvm
        return StepReport(tuning=supervise.run(spec, out))
    if step == "reference":
        reference.write(spec, models.build(spec), out)
        return StepReport()
    if step == "peak":
        return StepReport(peak=peak.measure(spec))
    if step.startswith("tvm"):
        driver.ensure()  # before anything imports tvm
    backend = backends.load(step)
    if spec.dtype not in backend.dtypes.get(spec.device, ()):
        return StepReport(result=_skipped(step, spec, backend))
    programs = modes.programs(spec, models.build(spec))
    if spec.kind == "compile":
        return StepReport(result=_compile(step, spec, backend, programs))
    return _bench(step, spec, backend, programs, out, number)


def _skipped(step: str, spec: JobSpec, backend: Backend) -> Result:
    known = backend.dtypes.get(spec.device)
    reason = f"{step} runs on {', '.join(backend.dtypes)} only, not {spec.device}"
    if known is not None:
        reason = f"{step} runs {', '.join(known)} only on {spec.device}, not {spec.dtype}"
    return Result.blank(step, spec).model_copy(update={"status": "skipped", "reason": reason})


def _compile(step: str, spec: JobSpec, backend: Backend, programs: Programs) -> Result:
    done = backend.compile_only(spec, programs)
    return Result.blank(step, spec).model_copy(
        update={
            "compile_s": done.compile_s,
            "compile_cached": done.compile_cached,
            "target": done.target,
            "artefact": done.artefact,
            "peak_memory_mib": _peak_memory_mib(),
        }
    )


def _bench(
    step: str, spec: JobSpec, backend: Backend, programs: Programs, out: Path, number: int
) -> StepReport:
    prepared = backend.prepare(spec, programs)
    work = modes.start(spec, prepared.ready)
    # What passed every call in the first round is asked once more in each that follows.
    calls = GATED_CALLS if number == 0 else 1
    parity = reference.gate(spec, work.logits, out, calls, WEIGHT_DTYPES.get(step))
    result = Result.blank(step, spec).model_copy(
        update={
            "compile_s": prepared.compile_s,
            "compile_cached": prepared.compile_cached,
            "tuning_s": prepared.tuning_s,
            "target": prepared.target,
            "artefact": prepared.artefact,
            "threads": spec.threads or available_cores(),  # what the runner gave both pools
            "parity": parity,
        }
    )
    if not parity.passed:
        failed = {"status": "failed", "reason": _why(parity), "peak_memory_mib": _peak_memory_mib()}
        return StepReport(result=result.model_copy(update=failed), tvm_library=_library(prepared))
    plan = measure.SamplingPlan.of(
        spec.repeats,
        slow_by_nature=backend.slow_by_nature,
        warm_s=work.warm_s,
        rounds=spec.rounds,
    )
    measured = {**work.measure(plan), "peak_memory_mib": _peak_memory_mib()}
    report = StepReport(result=result.model_copy(update=measured), tvm_library=_library(prepared))
    if spec.operators != "none" and number == 0:
        report = taking.added(report, spec, prepared.ready, work, out)
    return report


def _why(parity: Parity) -> str:
    whose = ""
    if parity.of_stored is not None and not parity.of_stored.passed:
        parity, whose = parity.of_stored, " of the weights as they are stored"
    error = "not finite" if parity.max_rel_err is None else f"{parity.max_rel_err:.1e}"
    return (
        f"outputs disagree with the float64 reference{whose}: largest error {error} of the largest "
        f"logit (allowed {parity.tolerance:.0e}), top-1 agreement {parity.top1_agreement:.1%}"
    )


def _library(prepared: Prepared) -> TvmLibrary | None:
    if prepared.artefact is None:
        return None
    from bench.job.compile import library  # imports tvm, which PyTorch's own steps can do without

    return TvmLibrary(path=str(library.tvm_library_path()), build_id=library.tvm_build_id())


def _peak_memory_mib() -> float:
    """Peak resident memory of this process, compiling included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
