"""Warm-up until stable: calls are made and thrown away until their times no longer fall.

How many calls a backend needs cannot be known beforehand: caches fill, threads start, clocks
rise, compilers compile on the first call. So the last calls are watched: while they still get
faster, warm-up goes on, within a budget.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import trend


@dataclass(frozen=True)
class WarmupPlan:
    """When to stop. Times are seconds.

    Stable is when ``least_s`` are over and the last ``window`` calls no longer fall. It is given
    up when ``most_s`` are over or ``most`` calls made; a call that is under way is not cut short.
    """

    # A plateau before a step looks stable; seen on two shared cores: the first 2.3 s of a thread
    # pool at half its speed.
    least_s: float = 3.0
    most_s: float = 15.0
    most: int = 2000
    window: int = 12


@dataclass(frozen=True)
class Warmup:
    """What it took. ``stable`` is False where the budget ended it while calls still got faster,
    or before there were enough calls to tell."""

    calls: int
    elapsed_s: float
    stable: bool


# Of the last window. As rare without a trend as one in twenty: a false alarm costs a few calls.
_FALLS_Z = -1.645
_FALLS = 0.01  # less is of no consequence
_LEVEL = 0.02  # how far the window's later half may lie below its earlier one
_FEW = 4  # calls of which something can be said, where slow calls leave no time for more


def warm_up(
    call: Callable[[], object],
    plan: WarmupPlan,
    clock: Callable[[], float] = time.perf_counter,
) -> Warmup:
    """Call until stable or until the budget is spent.

    ``call`` is one whole call, the device synchronised at its end. ``clock`` gives seconds.

    Raises:
        ValueError: the plan's window is shorter than four calls.
    """
    if plan.window < _FEW:
        raise ValueError(f"a window of {plan.window} calls shows no trend; take at least {_FEW}")
    times: list[float] = []
    started = now = clock()
    while True:
        elapsed = now - started
        if elapsed >= plan.least_s and len(times) >= plan.window and settled(times, plan.window):
            return Warmup(len(times), elapsed, stable=True)
        if elapsed >= plan.most_s or len(times) >= plan.most:
            enough = len(times) >= _FEW and settled(times, plan.window)
            return Warmup(len(times), elapsed, stable=enough)
        call()
        begin, now = now, clock()
        times.append(now - begin)


def settled(times: list[float], window: int) -> bool:
    """Whether the last ``window`` of ``times`` no longer fall.

    They fall where a trend is both sure and large enough to matter, or where the later half lies
    clearly below the earlier, as after a step. That they rise is no warm-up: it is for the host
    to tell a drift.
    """
    last = times[-window:]
    seen = trend.of(last)
    if seen.z < _FALLS_Z and seen.change < -_FALLS:
        return False
    half = len(last) // 2
    earlier, later = statistics.median(last[:half]), statistics.median(last[-half:])
    return later >= (1 - _LEVEL) * earlier
