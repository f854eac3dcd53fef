"""Recorded calls to the table of operators that stands in record.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.job.profile.events import Recording, own_times
from bench.operators import Operator, OperatorProfile


def of(recordings: Sequence[Recording], profiler: str) -> OperatorProfile:
    """What the median one of ``recordings`` (one or more) says, by name and shapes.

    One call, and no means of several: so the operators' times add up to the call's.
    Where anything ran on a GPU its kernels alone are counted: what the host does meanwhile
    overlaps them, and the two would not add up.
    """
    in_order = sorted(recordings, key=lambda recording: recording.duration_us)
    median = in_order[(len(in_order) - 1) // 2]
    on_gpu = any(event.on_gpu for event in median.events)
    spent: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for event, own_us in own_times(event for event in median.events if event.on_gpu == on_gpu):
        spent[event.name, event.shapes].append(own_us)
    operators = [
        Operator(name=name, shapes=shapes, calls=len(times), total_ms=sum(times) / 1e3)
        for (name, shapes), times in spent.items()
    ]
    return OperatorProfile(
        profiler=profiler,
        calls=len(recordings),
        call_ms=median.duration_us / 1e3,
        operators=sorted(operators, key=lambda one: (-one.total_ms, one.name, one.shapes or "")),
    )
