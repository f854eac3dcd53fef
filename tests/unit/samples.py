"""Small, whole values for tests to start from."""

from __future__ import annotations

from bench.record import Environment, JobSpec, Latency, Parity, Result, RunRecord

PARITY = Parity(
    reference="float64, layer by layer",
    max_abs_err=1e-6,
    max_rel_err=5e-7,
    top1_agreement=1.0,
    passed=True,
)


def result(backend: str, ms: float, spec: JobSpec | None = None) -> Result:
    spec = spec or JobSpec()
    return Result.blank(backend, spec).model_copy(
        update={
            "latency_ms": Latency.of([ms, ms * 1.1, ms * 0.9]),
            "tokens_per_s": spec.seq_len / ms * 1e3,
            "compile_s": 1.5,
            "peak_memory_mib": 900.0,
            "parity": PARITY,
        }
    )


def environment() -> Environment:
    return Environment(
        cpu="A CPU",
        cores=2,
        memory_mib=24000,
        kernel="6.1",
        python="3.11.7",
        packages={"torch": "2.13.0"},
    )


def record(run_id: str = "20260101-000000-gpt2-abcd") -> RunRecord:
    spec = JobSpec()
    return RunRecord(
        run_id=run_id,
        status="ok",
        reason=None,
        engine="local",
        image=None,
        environment=environment(),
        spec=spec.recorded(),
        results=[
            result("torch-eager", 120.0),
            result("torch-compile", 100.0),
            result("tvm-none", 10_000.0),
            result("tvm-default", 9_000.0),
            result("tvm-optimized", 200.0),
        ],
    )
