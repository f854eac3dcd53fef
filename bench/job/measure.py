"""Warm-up, synchronise, repeat: raw samples of one staged call.

The clock is ``time.perf_counter_ns`` on the host; the device is synchronised before the clock
is started and before it is read, so that a sample is the whole latency of one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.record import MIN_SAMPLES


@dataclass(frozen=True)
class SamplingPlan:
    """How long to go on. Times are seconds.

    ``least`` samples are always taken, unless ``give_up_s`` is set and spent: then at least
    ``floor``. Beyond ``least``, sampling goes on until ``for_s`` is over or ``most`` is reached.
    """

    least: int = MIN_SAMPLES
    most: int = 100
    for_s: float = 3.0
    # Seen on two shared cores: the first 2.3 s of a thread pool at half its speed.
    warmup_s: float = 3.0
    warmup_most: int = 500
    give_up_s: float | None = None
    floor: int = 3

    @classmethod
    def of(cls, repeats: int | None, *, slow_by_nature: bool, warm_s: float = 0.0) -> SamplingPlan:
        """The plan for ``repeats`` asked for (None: adaptive).

        ``warm_s`` is what earlier calls, those of the parity gate, have warmed up already.

        ``slow_by_nature`` is for the unoptimised *before*, which may stop at three samples
        once it has spent 30 s: its spread is far below the factor it is there to show.
        """
        give_up_s = 30.0 if slow_by_nature else None
        warmup_s = max(0.0, cls.warmup_s - warm_s)
        if repeats is None:
            return cls(give_up_s=give_up_s, warmup_s=warmup_s)
        return cls(least=repeats, most=repeats, for_s=0.0, warmup_s=warmup_s, give_up_s=give_up_s)


def sample(
    call: Callable[[], object], synchronize: Callable[[], None], plan: SamplingPlan
) -> list[float]:
    """Milliseconds of each call, in order, after a warm-up that is thrown away."""
    started = time.perf_counter()
    for _ in range(plan.warmup_most):
        if time.perf_counter() - started >= plan.warmup_s:
            break
        call()
        synchronize()
    samples: list[float] = []
    started = time.perf_counter()
    while not _enough(len(samples), time.perf_counter() - started, plan):
        synchronize()
        begin = time.perf_counter_ns()
        call()
        synchronize()
        samples.append((time.perf_counter_ns() - begin) / 1e6)
    return samples


def _enough(taken: int, elapsed_s: float, plan: SamplingPlan) -> bool:
    if plan.give_up_s is not None and elapsed_s >= plan.give_up_s and taken >= plan.floor:
        return True
    if taken < plan.least:
        return False
    return taken >= plan.most or elapsed_s >= plan.for_s
