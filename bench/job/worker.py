"""One step of a job in a process of its own: ``python -m bench.job.worker STEP SPEC OUT``.

STEP is ``reference`` or the name of a backend. Backends share no process: torch and tvm fight
over cores, and what one loads or leaks must not show in the next one's numbers.
"""

from __future__ import annotations

import errno
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

from bench.errors import BenchError
from bench.job import backends, driver, gpt, measure, reference
from bench.job.backends.base import Prepared
from bench.limits import available_cores
from bench.record import Fault, JobSpec, Latency, Parity, Result, StepReport, TvmLibrary

MIB = 2**20


def main(argv: list[str]) -> int:
    step, spec_path, out = argv[0], Path(argv[1]), Path(argv[2])
    spec = JobSpec.model_validate_json(spec_path.read_bytes())
    try:
        report = run_step(step, spec, out)
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
        report = StepReport(fault=Fault(message="out of memory"))
    except Exception as error:  # a backend may raise anything; the log has the traceback
        traceback.print_exc()
        report = StepReport(fault=Fault(message=f"{type(error).__name__}: {_first_line(error)}"))
    (out / f"{step}.json").write_text(report.model_dump_json())
    return 0


def run_step(step: str, spec: JobSpec, out: Path) -> StepReport:
    """Do ``step`` and say what came of it; the reference's arrays are written to ``out``."""
    torch.manual_seed(spec.seed)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    model = gpt.build(gpt.preset(spec.model), spec.seed)
    if step == "reference":
        reference.write(spec, model, out)
        return StepReport()
    if step.startswith("tvm"):
        driver.ensure()  # before anything imports tvm
    tokens = gpt.tokens_for(model.config, spec.batch_size, spec.seq_len, spec.seed)
    if spec.kind == "compile":
        return StepReport(result=_compile(step, spec, model, tokens))
    return _bench(step, spec, model, tokens, out)


def _compile(step: str, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Result:
    done = backends.load(step).compile_only(spec, model, tokens)
    return Result.blank(step, spec).model_copy(
        update={
            "compile_s": done.compile_s,
            "compile_cached": done.compile_cached,
            "target": done.target,
            "artefact": done.artefact,
            "peak_memory_mib": _peak_memory_mib(),
        }
    )


def _bench(step: str, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor, out: Path) -> StepReport:
    backend = backends.load(step)
    prepared = backend.prepare(spec, model, tokens)
    ready = prepared.ready

    warm_s = 0.0

    def logits_of(gated: torch.Tensor) -> np.ndarray:
        nonlocal warm_s
        staged = ready.stage(gated)
        begin = time.perf_counter()
        output = ready.run(staged)
        ready.synchronize()
        warm_s += time.perf_counter() - begin
        return ready.logits(output)

    parity = reference.gate(spec, logits_of, out)
    result = Result.blank(step, spec).model_copy(
        update={
            "compile_s": prepared.compile_s,
            "compile_cached": prepared.compile_cached,
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
        spec.repeats, slow_by_nature=backend.slow_by_nature, warm_s=warm_s
    )
    staged = ready.stage(tokens)
    samples = measure.sample(lambda: ready.run(staged), ready.synchronize, plan)
    latency = Latency.of(samples)
    measured = {
        "latency_ms": latency,
        "tokens_per_s": spec.batch_size * spec.seq_len / (latency.median / 1e3),
        "peak_memory_mib": _peak_memory_mib(),
    }
    return StepReport(result=result.model_copy(update=measured), tvm_library=_library(prepared))


def _why(parity: Parity) -> str:
    error = "not finite" if parity.max_rel_err is None else f"{parity.max_rel_err:.1e}"
    return (
        f"outputs disagree with the float64 reference: largest error {error} of the largest "
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
