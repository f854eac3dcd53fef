"""Where the time goes."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.options import GPU, JOB

_AS_THE_RUN = "; a run's own where not given"


@verb(
    help={
        **{name: text for name, text in JOB.items() if name not in ("model", "layers", "weights")},
        "target": "a run (its id or part of it, `last`, its directory), which is repeated as it "
        "was; or a model, as gpt2; hf:gpt2 or a directory of weights; or a spec.json",
        "engine": "auto, docker or local (default: where the run was; auto of a model)",
        "gpu": GPU,
        "backends": "comma-separated (default: the run's; of a model torch-eager,torch-compile,"
        "tvm-optimized)",
        "repeats": "timed samples per backend, before the profiled calls" + _AS_THE_RUN,
        "rounds": "fresh processes per backend, the first one profiled" + _AS_THE_RUN,
        "top": "operators to show of each backend (default: 15); the record has them all",
    }
)
def profile(
    c: Context,
    target: str,
    gpu: bool = False,
    engine: str | None = None,
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    mode: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    dtype: str | None = None,
    backends: str | None = None,
    repeats: str | None = None,
    rounds: str | None = None,
    threads: str | None = None,
    seed: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    top: str | None = None,
    out: str = "results",
) -> None:
    """Show where the time goes, operator by operator, and trace TVM and torch side by side."""
    help_if_asked(target, "profile")
    from bench.host import profile as profiling

    profiling.run(
        target,
        Path(out),
        top,
        {
            "device": "cuda" if gpu else None,
            "mode": mode,
            "batch_size": batch_size,
            "seq_len": seq_len,
            "dtype": dtype,
            "backends": backends,
            "repeats": repeats,
            "rounds": rounds,
            "threads": threads,
            "seed": seed,
            "timeout_s": timeout,
        },
        engine=engine,
        profile=profile,
        base=base,
        image=image,
        limits=limits,
    )
