"""Tuning as host and job both know it: the spec, a trial, what came of a run.

    TuneSpec                 spec.json: the host's request
    Trial                    a line of trials.jsonl: one candidate, built and run, or not
    Tuning                   what record.json keeps under ``tuning``

Plain data: neither torch nor docker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from bench.record import JobSpec, RecordedSpec

BACKEND = "tvm-tuned"
TUNING_DIR = "tuning"  # of the artefact store
CURVE = "tuning.svg"  # in the run's directory

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]

VALID = "valid"
OUTCOMES = (VALID, "build error", "build time-out", "run error", "run time-out")
Outcome = Literal["valid", "build error", "build time-out", "run error", "run time-out"]
Stopped = Literal["budget", "flat", "trials", "interrupted", "nothing to tune", "tuner died"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TuneSpec(BaseModel):
    """What is tuned, and for how long.

    ``batch`` candidates of a task are searched for, built and run in one turn. A task is flat
    when its last ``flat_trials`` trials made its best less than ``FLAT_GAIN`` faster; tuning ends
    when all are, after ``budget_s`` seconds, or after ``max_trials`` trials of this run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    kind: Literal["tune"] = "tune"
    model: str = "gpt2"
    mode: str = "prefill"
    device: Literal["cpu"] = "cpu"
    batch_size: Count = 1
    seq_len: Count = 64
    dtype: Literal["float32"] = "float32"
    threads: Count | None = None
    mcpu: str | None = Field(default=None, min_length=1)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    budget_s: Annotated[float, Field(gt=0, le=30 * 86400)] = 1200.0
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    flat_trials: Count = 64
    max_trials: Count | None = None
    timeout_s: Positive = 3600.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the host has to lay beside the spec."""
        return ()

    def compiled(self) -> JobSpec:
        """The compilation that is tuned for.

        Raises:
            pydantic.ValidationError: there is no such model, or it is not measured so.
        """
        from bench.record import JobSpec  # which holds a Tuning, so it imports this module

        same = ("model", "mode", "batch_size", "seq_len", "threads", "mcpu", "seed", "timeout_s")
        return JobSpec(
            kind="compile", backends=(BACKEND,), **{name: getattr(self, name) for name in same}
        )

    def recorded(self) -> RecordedSpec:
        """The part of it that every record has, whatever its kind."""
        return self.compiled().recorded().model_copy(update={"kind": self.kind})


FLAT_GAIN = 0.01


class Trial(_Record):
    """One candidate. ``ms`` is the median of its runs; ``at_s`` seconds of tuning, all runs'."""

    task: str
    outcome: Outcome
    ms: Positive | None = None
    at_s: AtLeastZero


class TunedTask(_Record):
    """One kernel: ``weight`` calls in one call of the model, ``flops`` operations in each.

    ``hand_ms`` and ``tuned_ms`` were measured in turns, in one process, when the best record was
    found; ``search_ms`` is what MetaSchedule's own runner measured. ``used`` is what ``tvm-tuned``
    takes.
    """

    key: str
    name: str
    program: str
    product: bool = Field(description="whether it is a matrix product")
    flops: AtLeastZero
    weight: Count
    trials: Natural = 0
    valid: Natural = 0
    search_ms: Positive | None = None
    hand_ms: Positive | None = None
    tuned_ms: Positive | None = None
    used: Literal["hand-written", "tuned"] = "hand-written"
    flat: bool = False
    given_up: bool = Field(default=False, description="the tuner died of it twice")


class Point(_Record):
    """After so many trials: the sum of weight times the least time of every task's kernel.

    ``tuned_ms`` is of tuned kernels alone, null until each task has one; ``best_ms`` takes the
    hand-written kernel where that is faster.
    """

    trials: Natural
    minutes: AtLeastZero
    tuned_ms: Positive | None = None
    best_ms: Positive | None = None


class Death(_Record):
    """The tuner's process, gone otherwise than by its own end."""

    reason: str
    task: str | None = None
    trials: Natural = Field(description="how many were kept by then")


class Tuning(_Record):
    """What came of a tuning run: ``tuning`` in record.json.

    ``counts``, ``tasks`` and ``series`` are of this model's tasks over all runs so far;
    ``trials_before`` of those trials are from earlier runs. ``kept`` names kernels that are not
    searched for; ``hand_ms`` is the sum of weight times hand-written time. ``database`` is the
    directory's name in the store, ``digest`` the sha256 of what ``tvm-tuned`` takes from it, one
    for each program.
    """

    tvm: str
    target: dict[str, Any]
    cost_model: str
    database: str
    digest: str | None = None
    stopped: Stopped
    reason: str | None = None
    budget_s: Positive
    elapsed_s: AtLeastZero
    trials_before: Natural = 0
    counts: dict[str, Natural]
    tasks: list[TunedTask] = []
    kept: list[str] = []
    series: list[Point] = []
    deaths: list[Death] = []
    hand_ms: Positive | None = None

    @property
    def trials(self) -> int:
        return sum(self.counts.values())


def counted(trials: Iterable[Trial]) -> dict[str, int]:
    """How many trials had each outcome, those that none had too."""
    found = dict.fromkeys(OUTCOMES, 0)
    for trial in trials:
        found[trial.outcome] += 1
    return found


def ranked(tasks: Iterable[TunedTask]) -> list[TunedTask]:
    """Matrix products first, then by operations in one call of the model, the most first."""
    return sorted(tasks, key=lambda one: (not one.product, -one.flops * one.weight, one.key))


def is_flat(trials: Sequence[Trial], window: int) -> bool:
    """Whether a task's last ``window`` trials made its best less than ``FLAT_GAIN`` faster.

    Where no trial is valid, ``window`` of them are enough to give it up.
    """
    if len(trials) < window:
        return False
    before = best_of(trials[:-window])
    after = best_of(trials)
    if after is None:
        return True
    return before is not None and after > before * (1 - FLAT_GAIN)


def best_of(trials: Iterable[Trial]) -> float | None:
    """The least time among valid trials, milliseconds."""
    return min((trial.ms for trial in trials if trial.ms is not None), default=None)


def series(tasks: Sequence[TunedTask], trials: Sequence[Trial]) -> list[Point]:
    """The estimated latency of the model after each trial that changed it, and after the last."""
    weights = {task.key: sum(t.weight for t in tasks if t.key == task.key) for task in tasks}
    hand = {task.key: task.hand_ms for task in tasks}
    best: dict[str, float] = {}
    points: list[Point] = []
    for number, trial in enumerate(trials, start=1):
        better = trial.ms is not None and trial.ms < best.get(trial.task, math.inf)
        if better and trial.ms is not None:
            best[trial.task] = trial.ms
        if better or number == len(trials):
            points.append(
                Point(
                    trials=number,
                    minutes=trial.at_s / 60,
                    tuned_ms=_total(weights, best),
                    best_ms=_total(weights, _least(hand, best)),
                )
            )
    return points


def _least(hand: dict[str, float | None], best: dict[str, float]) -> dict[str, float]:
    found = {key: ms for key, ms in hand.items() if ms is not None}
    return {
        key: min(found.get(key, math.inf), best.get(key, math.inf)) for key in {**found, **best}
    }


def _total(weights: dict[str, int], times: dict[str, float]) -> float | None:
    if not weights or any(key not in times for key in weights):
        return None
    return sum(weight * times[key] for key, weight in weights.items())
