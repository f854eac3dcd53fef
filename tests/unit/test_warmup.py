"""Warm-up until stable, on a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bench.job.warmup import Warmup, WarmupPlan, settled, warm_up

PLAN = WarmupPlan(least_s=0.0, most_s=1e9, most=1000, window=12)


def warmed(seconds: Callable[[int], float], plan: WarmupPlan = PLAN) -> Warmup:
    """What warm-up makes of a call whose i-th run takes ``seconds(i)``."""
    made = 0
    now = 50.0

    def call() -> None:
        nonlocal made, now
        now += seconds(made)
        made += 1

    found = warm_up(call, plan, clock=lambda: now)
    assert found.calls == made
    assert found.elapsed_s == pytest.approx(now - 50.0)
    return found


def test_what_is_steady_from_the_start_takes_one_window() -> None:
    found = warmed(lambda i: 0.01)
    assert (found.calls, found.stable) == (12, True)


def test_what_falls_is_waited_for() -> None:
    # Down from 20 ms to 10 ms within 40 calls, and then level.
    found = warmed(lambda i: 0.02 - 0.01 * min(i, 40) / 40)
    assert found.stable
    assert 41 <= found.calls <= 60


def test_a_first_call_that_compiles_does_not_keep_it_waiting() -> None:
    assert warmed(lambda i: 30.0 if i == 0 else 0.01).calls == 12


def test_a_step_within_the_window_is_waited_out() -> None:
    found = warmed(lambda i: 0.02 if i < 8 else 0.01)
    assert found.stable
    assert found.calls >= 16  # the slow ones are a minority of the window


def test_noise_alone_does_not_use_the_budget_up() -> None:
    draw = random.Random(3)
    calls = []
    for _ in range(50):
        found = warmed(lambda i: draw.lognormvariate(0.0, 0.1))
        assert found.stable
        calls.append(found.calls)
    assert max(calls) < 100


def test_the_least_time_is_kept_though_all_looks_steady() -> None:
    # A plateau, as before the step of a thread pool that wakes up late.
    found = warmed(lambda i: 0.02 if i < 115 else 0.01, WarmupPlan(least_s=3.0))
    assert found.stable
    assert found.calls > 115


@pytest.mark.parametrize(
    "plan",
    [WarmupPlan(least_s=0.0, most_s=2.0), WarmupPlan(least_s=0.0, most_s=1e9, most=50)],
    ids=["time", "calls"],
)
def test_what_never_settles_is_given_up_within_the_budget(plan: WarmupPlan) -> None:
    found = warmed(lambda i: 0.1 * 0.98**i, plan)
    assert not found.stable
    assert found.calls <= plan.most
    assert found.elapsed_s <= plan.most_s + 0.1


def test_slow_calls_are_judged_by_the_few_there_is_time_for() -> None:
    plan = WarmupPlan(least_s=0.0, most_s=20.0)
    found = warmed(lambda i: 4.0, plan)
    assert (found.calls, found.stable) == (5, True)
    assert not warmed(lambda i: 8.0 / (i + 1), WarmupPlan(least_s=0.0, most_s=15.0)).stable


def test_too_few_calls_are_no_evidence_of_being_stable() -> None:
    found = warmed(lambda i: 9.0, WarmupPlan(least_s=0.0, most_s=20.0))
    assert (found.calls, found.stable) == (3, False)


def test_no_time_at_all_makes_no_call() -> None:
    assert warmed(lambda i: 1.0, WarmupPlan(least_s=0.0, most_s=0.0)) == Warmup(0, 0.0, False)


def test_getting_slower_is_no_warm_up() -> None:
    assert settled([1.0 + 0.1 * i for i in range(12)], 12)
    assert not settled([2.2 - 0.1 * i for i in range(12)], 12)


def test_a_window_too_short_to_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="window of 3"):
        warmed(lambda i: 1.0, WarmupPlan(window=3))
