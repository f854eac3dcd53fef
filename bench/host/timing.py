"""The middle of a backend's times, by the host's clock and by the device's."""

from __future__ import annotations

import statistics

from bench.host import stats
from bench.latency import Latency
from bench.record import Result


def middle(latency: Latency) -> float:
    """The median of the rounds' medians: a round with more samples weighs no more."""
    return statistics.median(stats.round_medians(latency.samples, latency.process))


def device_middle(latency: Latency) -> float | None:
    """The same of the device's own clock; None where it did not time them."""
    if latency.device_ms is None:
        return None
    return statistics.median(stats.round_medians(latency.device_ms, latency.process))


def on_device(result: Result) -> str | None:
    """How much of a backend's time is the device's, or why that is not known; text as it is.

    None for what was not timed, and on a CPU, where there is no other clock than the host's.
    """
    latency = result.latency_ms
    if latency is None or latency.clock is None or result.device == "cpu":
        return None
    whole, inner = middle(latency), device_middle(latency)
    if inner is None or whole <= 0:
        return f"{result.backend}: timed by one clock ({latency.clock})"
    host = max(0.0, 1 - inner / whole)
    return (
        f"{result.backend}: {inner:.3f} of {whole:.3f} ms on the device ({latency.clock}), gaps "
        f"between kernels included; {host:.0%} lies before and after"
    )
