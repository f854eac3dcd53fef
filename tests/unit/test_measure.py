"""Sampling: how many, of what, and that the device is waited for."""

from __future__ import annotations

import time

import pytest

from bench.job.measure import SamplingPlan, sample
from bench.job.warmup import WarmupPlan


class Device:
    """Counts calls, and calls that the clock was read over without waiting."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = self.waits = self.pending = self.unwaited = 0
        self._seconds = seconds

    def run(self) -> None:
        self.unwaited += self.pending > 0
        self.calls += 1
        self.pending += 1
        time.sleep(self._seconds)

    def synchronize(self) -> None:
        self.waits += 1
        self.pending = 0


def test_exactly_as_many_samples_as_asked_for() -> None:
    device = Device()
    plan = SamplingPlan.of(25, slow_by_nature=False)
    samples = sample(device.run, device.synchronize, plan).latency.samples
    assert len(samples) == 25
    assert device.calls > 25  # warm-up calls are not among them
    assert device.unwaited == 0
    assert device.pending == 0


def test_adaptive_takes_at_least_ten_and_at_most_a_hundred() -> None:
    device = Device()
    adaptive = SamplingPlan.of(None, slow_by_nature=False)
    assert len(sample(device.run, device.synchronize, adaptive).latency.samples) == 100
    hurried = SamplingPlan(for_s=0.0)
    assert len(sample(device.run, device.synchronize, hurried).latency.samples) == 10


@pytest.mark.parametrize("repeats", [None, 50])
def test_only_the_slow_before_may_stop_at_three(repeats: int | None) -> None:
    slow = SamplingPlan.of(repeats, slow_by_nature=True)
    assert slow.give_up_s is not None and slow.floor == 3
    assert SamplingPlan.of(repeats, slow_by_nature=False).give_up_s is None
    device = Device()
    spent = SamplingPlan(least=50, most=50, for_s=0.0, give_up_s=0.0)
    assert len(sample(device.run, device.synchronize, spent).latency.samples) == 3


def test_what_the_gate_has_warmed_up_is_not_warmed_up_again() -> None:
    device = Device()
    warm = SamplingPlan.of(10, slow_by_nature=False, warm_s=60.0)
    assert len(sample(device.run, device.synchronize, warm).latency.samples) == device.calls == 10


def test_a_sample_is_in_milliseconds_and_covers_the_call() -> None:
    device = Device(seconds=0.005)
    plan = SamplingPlan(least=10, most=10, for_s=0.0, warmup=WarmupPlan(0.0, 0.0))
    assert min(sample(device.run, device.synchronize, plan).latency.samples) >= 5.0
