"""The search for schedules, in an image or in this environment."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import verb
from bench.tasks.options import JOB, MCPU


@verb(
    help={
        **{name: JOB[name] for name in ("engine", "profile", "base", "image", "model", "mode")},
        **{name: JOB[name] for name in ("batch-size", "seq-len", "threads", "limits", "out")},
        "mcpu": MCPU,
        "budget": "how long to search, as 90s, 20m or 1h30m (default: 20m)",
        "trials-per-turn": "candidates of a kernel searched for, built and run at a time "
        "(default: 16)",
        "flat-trials": "a kernel is flat when so many trials made it less than 1% faster; all flat "
        "ends the search (default: 64)",
        "max-trials": "stop after so many trials of this run (default: no such limit)",
        "seed": "of the search (default: 0)",
        "timeout": "seconds after which the job is stopped (default: the budget and 900)",
    }
)
def tune(
    c: Context,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    model: str | None = None,
    mode: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    budget: str = "20m",
    trials_per_turn: str | None = None,
    flat_trials: str | None = None,
    max_trials: str | None = None,
    threads: str | None = None,
    mcpu: str | None = None,
    seed: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Search for faster kernels with MetaSchedule, for tvm-tuned; goes on where it stopped."""
    from bench.host import jobs
    from bench.host.tune import spec_from

    spec = spec_from(
        budget,
        model=model,
        mode=mode,
        batch_size=batch_size,
        seq_len=seq_len,
        batch=trials_per_turn,
        flat_trials=flat_trials,
        max_trials=max_trials,
        threads=threads,
        mcpu=mcpu,
        seed=seed,
        timeout_s=timeout,
    )
    jobs.run_job(spec, jobs.Place(engine, profile, base, image, Path(out), limits))
