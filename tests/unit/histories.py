"""Runs with rounds, published under a directory as a job would have left them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.host import runs
from bench.record import Environment, ImageRef, JobSpec, Latency, Result, RunRecord
from bench.system import SystemState
from tests.unit.samples import PARITY, environment

PER_ROUND = 3  # samples


def rounds(median: float, count: int = 12, seed: int = 0, spread: float = 0.002) -> list[float]:
    """The medians of ``count`` rounds in milliseconds, near ``median``."""
    drawn = random.Random(seed)
    return [median * (1 + drawn.gauss(0, spread)) for _ in range(count)]


def latency(medians: Sequence[float], place: int = 0, backends: int = 1) -> Latency:
    """Rounds of three samples each, of the backend at ``place`` of the interleaved schedule."""
    samples, process, order = [], [], []
    for number, median in enumerate(medians):
        samples += [median, median * 1.001, median * 0.999]
        process += [number] * PER_ROUND
        order += [number * backends + place] * PER_ROUND
    return Latency.of(samples, process, order)


def result(backend: str, measured: Latency | None, spec: JobSpec) -> Result:
    blank = Result.blank(backend, spec)
    if measured is None:
        return blank.model_copy(update={"status": "failed", "reason": "it crashed"})
    update = {"latency_ms": measured, "parity": PARITY, "threads": 2}
    return blank.model_copy(update={**update, "tokens_per_s": 64 / measured.median * 1e3})


def record(
    run_id: str = "20260101-000000-gpt2-abcd",
    medians: Mapping[str, Sequence[float] | None] | None = None,
    *,
    spec: JobSpec | None = None,
    where: Environment | None = None,
    image: ImageRef | None = None,
    commit: str | None = "1" * 40,
) -> RunRecord:
    """A run whose backends have these medians of rounds; None is a backend that failed."""
    spec = spec or JobSpec()
    medians = {"tvm-optimized": rounds(10.0)} if medians is None else medians
    results = [
        result(name, latency(of, place, len(medians)) if of else None, spec)
        for place, (name, of) in enumerate(medians.items())
    ]
    where = (where or environment()).model_copy(update={"git_commit": commit, "git_dirty": False})
    return RunRecord(
        run_id=run_id,
        status="ok",
        reason=None,
        engine="local",
        image=image,
        environment=where,
        spec=spec.recorded(),
        results=results,
    )


def ended(made: RunRecord) -> RunRecord:
    """The run as one that came to its end: it has looked at the machine again."""
    assert made.environment is not None
    where = made.environment.model_copy(update={"after": SystemState(uptime_s=1e5)})
    return made.model_copy(update={"environment": where})


def publish(out: Path, made: RunRecord) -> Path:
    """The directory of a run that is published as it is."""
    path = out / made.run_id
    path.mkdir(parents=True)
    (path / runs.RECORD).write_text(runs.to_json(made))
    return path


def image(tag: str = "gpt-frontend:cpu-1", digit: str = "a") -> ImageRef:
    return ImageRef(id=f"sha256:{digit * 64}", digest=None, tag=tag, labels={})
