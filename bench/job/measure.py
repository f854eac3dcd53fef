"""Warm-up, synchronise, repeat: raw samples of one staged call.

The clock is ``time.perf_counter_ns`` on the host; the device is synchronised before the clock
is started and before it is read, so that a sample is the whole latency of one call. A device's own
clock may time the same calls beside it (``bench.job.clock``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.job.clock import HOST, Clock
from bench.job.warmup import Warmup, WarmupPlan, warm_up
from bench.latency import Latency
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
    warmup: WarmupPlan = field(default_factory=WarmupPlan)
    give_up_s: float | None = None
    floor: int = 3

    @classmethod
    def of(
        cls,
        repeats: int | None,
        *,
        slow_by_nature: bool,
        warm_s: float = 0.0,
        rounds: int = 1,
    ) -> SamplingPlan:
        """The plan for one process, of ``rounds``, for ``repeats`` samples (None: adaptive).

        ``warm_s`` is what earlier calls, those of the parity gate, have warmed up already.

        ``slow_by_nature`` is for the unoptimised *before*, which may stop at three samples
        once it has spent 30 s: its spread is far below the factor it is there to show.
        """
        give_up_s = 30.0 if slow_by_nature else None
        least_s = max(0.0, WarmupPlan.least_s - warm_s)
        most_s = max(0.0, WarmupPlan.most_s - warm_s)
        # What is warm after so many seconds of the gate needs no further look.
        warmup = WarmupPlan(least_s, most_s if least_s else 0.0)
        least, most, for_s = cls.least, cls.most, cls.for_s
        if rounds > 1:  # their median is one datum: a few calls of each process are enough
            least, most, for_s = 3, 50, 1.0
        if repeats is not None:
            least = most = -(-repeats // rounds)
            for_s = 0.0
        return cls(least, most, for_s, warmup, give_up_s)


@dataclass(frozen=True)
class Sampled:
    """The calls that were timed, and the warm-up before them, which was thrown away."""

    latency: Latency
    warmed: Warmup


def sample(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    plan: SamplingPlan,
    on_warm: Callable[[], None] = lambda: None,
    clock: Clock = HOST,
) -> Sampled:
    """Time ``call`` by the host's clock, and by ``clock`` beside it, after a warm-up.

    ``on_warm`` is called between the two.
    """

    def whole() -> None:
        call()
        clock.end()  # behind the call's own work, and before the wait
        synchronize()

    warmed = warm_up(whole, plan.warmup)
    on_warm()
    samples: list[float] = []
    device: list[float] = []
    started = time.perf_counter()
    while not _enough(len(samples), time.perf_counter() - started, plan):
        synchronize()
        clock.begin()  # before the host's is read: it takes microseconds that are not the call's
        begin = time.perf_counter_ns()
        whole()
        samples.append((time.perf_counter_ns() - begin) / 1e6)
        seen = clock.read()
        if seen is not None:
            device.append(seen)
    return Sampled(Latency.of(samples, device_ms=device or None, clock=clock.name), warmed)


def _enough(taken: int, elapsed_s: float, plan: SamplingPlan) -> bool:
    if plan.give_up_s is not None and elapsed_s >= plan.give_up_s and taken >= plan.floor:
        return True
    if taken < plan.least:
        return False
    return taken >= plan.most or elapsed_s >= plan.for_s
