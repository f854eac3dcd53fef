"""Records with something for every part of the page, and runs of several lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from bench.catalog import BACKENDS
from bench.host import runs
from bench.operators import Operator, OperatorProfile
from bench.record import ImageRef, JobSpec, Latency, Parity, Result, RunRecord
from bench.roofline import Energy, Peak, Roofline
from bench.system import SystemState
from bench.training import PRESETS, Point, Training
from tests.unit import histories
from tests.unit.samples import environment

# GPT-2's, as two quiet cores took them for 64 tokens.
MEDIANS = {
    "torch-eager": 121.4,
    "torch-compile": 104.9,
    "tvm-none": 9120.0,
    "tvm-default": 8890.0,
    "tvm-optimized": 187.2,
}
DEBUG = {"io.gpt-frontend.build.build_type": "Debug", "io.gpt-frontend.pin.tvm": "0.23.0"}
PEAK = Peak(gemm_gflops=142.0, gemm="torch, 2048x2048", read_gb_s=31.0, read="sum over 512 MiB")
KERNELS = {
    "tvm": ("fused_matmul_add_gelu", "fused_matmul_add", "softmax", "layer_norm", "take", "concat",
            "fused_transpose_reshape_multiply_with_a_name_that_is_longer_than_any_column", "split",
            "strided_slice", "gelu"),
    "torch": ("aten::addmm", "aten::scaled_dot_product_attention", "aten::native_layer_norm",
              "aten::gelu", "aten::add", "aten::embedding"),
}  # fmt: skip


def latency(median: float, rounds: int, seed: int, spread: float = 0.01) -> Latency:
    """Ten samples a round, slower than their median more often than faster, as calls are."""
    drawn = random.Random(seed)
    samples, process, order = [], [], []
    for number in range(rounds):
        middle = median * (1 + drawn.gauss(0, spread))
        for _ in range(10):
            samples.append(middle * (1 + abs(drawn.gauss(0, spread)) - spread / 2))
            process.append(number)
            order.append(number * len(BACKENDS) + seed)
    return Latency.of(samples, process, order)


def profile(backend: str, call_ms: float) -> OperatorProfile:
    names = KERNELS["tvm" if backend.startswith("tvm") else "torch"]
    shares = [0.42 * 0.55**place for place in range(len(names))]
    return OperatorProfile(
        profiler="TVM's VM profiler" if backend.startswith("tvm") else "torch.profiler",
        calls=5,
        call_ms=call_ms,
        operators=[
            Operator(
                name=name,
                calls=12 + place,
                total_ms=share * call_ms,
                shapes="64x768, 768x3072" if place == 0 else None,
            )
            for place, (name, share) in enumerate(zip(names, shares, strict=True))
        ],
    )


def roofline(ms: float) -> Roofline:
    flops, moved = 1.6e10, 5.5e8
    gflops, gb_s = flops / ms / 1e6, moved / ms / 1e6
    return Roofline(
        flops=flops,
        bytes_moved=moved,
        gflops=gflops,
        gb_s=gb_s,
        gemm_fraction=gflops / PEAK.gemm_gflops,
        read_fraction=gb_s / PEAK.read_gb_s,
        bound="compute",
    )


def row(backend: str, median: float, spec: JobSpec, rounds: int, seed: int) -> Result:
    error = 2e-6 * (seed + 1)
    return Result.blank(backend, spec).model_copy(
        update={
            "latency_ms": latency(median, rounds, seed),
            "ttft_ms": latency(median * 20, rounds, seed + 9) if spec.mode == "decode" else None,
            "tokens_per_s": (1 if spec.mode == "decode" else spec.seq_len) / median * 1e3,
            "compile_s": None if backend == "torch-eager" else 1.9 * (seed + 1),
            "compile_cached": None if backend == "torch-eager" else backend == "tvm-none",
            "peak_memory_mib": 900.0 + 240 * seed,
            "parity": Parity(
                reference="float64, layer by layer",
                max_abs_err=error,
                max_rel_err=error / 30,
                top1_agreement=1.0,
                passed=True,
                tolerance=1e-3,
                calls=3,
            ),
            "threads": 2,
            "roofline": roofline(median),
            "energy": Energy(by_domain_j={"package-0": median * 1.2}, calls=100, per_token_j=0.02),
            "operators": profile(backend, median * 1.15),
        }
    )


def whole(
    run_id: str = "20260101-000000-gpt2-abcd",
    spec: JobSpec | None = None,
    rounds: int = 12,
    scale: float = 1.0,
    labels: dict[str, str] | None = None,
) -> RunRecord:
    """A run with everything that a benchmark can have."""
    spec = spec or JobSpec()
    rows = [
        row(name, median * scale, spec, rounds, seed)
        for seed, (name, median) in enumerate(MEDIANS.items())
    ]
    state = SystemState(cores=2, load_1m=0.1, governors=("performance",), frequency_mhz=2450.0)
    image = histories.image().model_copy(update={"labels": labels}) if labels else None
    return RunRecord(
        run_id=run_id,
        status="ok",
        reason=None,
        engine="docker" if image else "local",
        image=image,
        environment=environment().model_copy(
            update={"peak": PEAK, "before": state, "after": state, "git_commit": "1" * 40}
        ),
        spec=spec.recorded(),
        results=rows,
    )


def with_failures() -> RunRecord:
    """A run of which one backend failed, one was not reached and one is unsteady."""
    made = whole(labels=DEBUG)
    blank = {"latency_ms": None, "tokens_per_s": None, "roofline": None, "operators": None}
    blank |= {"energy": None}
    none, default = (row for row in made.results if row.backend in ("tvm-none", "tvm-default"))
    failed = none.model_copy(update={**blank, "status": "failed", "reason": "exit code 137"})
    skipped = default.model_copy(
        update={**blank, "status": "skipped", "reason": "not reached: exit code 137"}
    )
    jumpy = made.results[0].model_copy(update={"unstable": ["spread: wide; run it again"]})
    rows = [jumpy, made.results[1], failed, skipped, made.results[4]]
    return made.model_copy(
        update={"results": rows, "status": "failed", "reason": "2 of 5 backends failed"}
    )


def trained() -> RunRecord:
    """A training run with its curve."""
    points = [
        Point(step=step, train_loss=4.2 - step / 900, val_loss=4.2 - step / 1000, lr=1e-3,
              tokens_per_s=9000.0, elapsed_s=step / 12)
        for step in range(0, 2001, 250)
    ]  # fmt: skip
    done = Training(
        hyperparameters=PRESETS["char-cpu"],
        preset="char-cpu",
        text="https://example.org/shakespeare.txt",
        text_sha256="a" * 64,
        seed=0,
        parameters=804_096,
        vocab_size=65,
        train_tokens=1_003_854,
        val_tokens=111_540,
        steps_done=2000,
        stopped="finished",
        curve=points,
        best_val_loss=2.2,
        best_step=2000,
        last_val_loss=2.2,
        elapsed_s=170.0,
    )
    made = whole("20260101-000500-char-cpu-train-abcd")
    spec = made.spec.model_copy(update={"kind": "train", "model": "char-cpu", "mode": "train"})
    return made.model_copy(update={"results": [], "training": done, "spec": spec})


HOSTILE = (
    "\x1b[31mred\x1b[0m\x07 </script><script>window.owned = 1</script>"
    "<img src=x onerror='window.owned = 2'> <!-- ${7*7} {{ 7*7 }} $\\frac{1}{0}$ ‮ \"quoted\" ]]>"
)


def hostile() -> RunRecord:
    """A run with markup, scripts and control characters wherever its format lets text in."""
    made = whole("20260101-000001-hostile-abcd", labels={f"io.{HOSTILE}": HOSTILE})
    where = environment().model_copy(
        update={
            "cpu": HOSTILE,
            "kernel": HOSTILE,
            "packages": {HOSTILE: HOSTILE},
            "git_commit": HOSTILE,
            "peak": PEAK.model_copy(update={"gemm": HOSTILE, "read": HOSTILE}),
        }
    )
    evil = Operator(name=HOSTILE, calls=1, total_ms=50.0, shapes=HOSTILE)
    first = made.results[0].model_copy(
        update={
            "backend": HOSTILE,
            "unstable": [HOSTILE],
            "operators": OperatorProfile(profiler=HOSTILE, calls=1, call_ms=99.0, operators=[evil]),
        }
    )
    spec = made.spec.model_copy(update={"model": HOSTILE, "mode": HOSTILE, "dtype": HOSTILE})
    return made.model_copy(
        update={
            "status": "failed",
            "reason": HOSTILE,
            "engine": HOSTILE,
            "environment": where,
            "image": ImageRef(id=HOSTILE, digest=HOSTILE, tag=HOSTILE, labels={HOSTILE: HOSTILE}),
            "results": [first, *made.results[1:]],
            "spec": spec,
        }
    )


def lengths(out: Path, of: Sequence[int] = (32, 64, 128, 256, 512)) -> None:
    """Runs of prefill and decode at several lengths, published under ``out``."""
    for place, seq_len in enumerate(of):
        for minute, mode in enumerate(("prefill", "decode")):
            spec = JobSpec(seq_len=seq_len, mode=mode)
            run_id = f"20260101-00{place:02}{minute:02}-gpt2-{mode}"
            scale = seq_len / 64 if mode == "prefill" else 0.4 + seq_len / 2000
            histories.publish(out, whole(run_id, spec, rounds=1, scale=scale))


def publish(out: Path, made: RunRecord, log: str = "") -> Path:
    path = histories.publish(out, made)
    (path / runs.LOG).write_text(log)
    return path
