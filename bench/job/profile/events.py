"""What ran in one call, from when and for how long: the one form of every profiler's findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One operator that ran. Times are microseconds from the beginning of the call.

    ``thread`` tells the host's threads apart, or a GPU's streams where ``on_gpu``. Events of one
    thread are nested or apart, never partly over each other.
    """

    name: str
    start_us: float
    duration_us: float
    thread: int = 0
    on_gpu: bool = False
    shapes: str | None = None

    @property
    def end_us(self) -> float:
        return self.start_us + self.duration_us


@dataclass(frozen=True)
class Recording:
    """One call, to the end of the device's work, with what ran in it in no certain order."""

    events: Sequence[Event]
    duration_us: float


def own_times(events: Iterable[Event]) -> Iterator[tuple[Event, float]]:
    """Each event with its time less that of the events within it, microseconds.

    So the times of a thread's events add up to the time that the thread was in any of them.
    """
    by_thread: dict[tuple[bool, int], list[Event]] = defaultdict(list)
    for event in events:
        by_thread[event.on_gpu, event.thread].append(event)
    for thread in by_thread.values():
        open_events: list[tuple[Event, list[float]]] = []  # each with what is within it
        for event in sorted(thread, key=lambda one: (one.start_us, -one.duration_us)):
            while open_events and open_events[-1][0].end_us <= event.start_us:
                yield _own(*open_events.pop())
            if open_events:
                open_events[-1][1].append(event.duration_us)
            open_events.append((event, []))
        while open_events:
            yield _own(*open_events.pop())


def shapes_of(shapes: Iterable[Sequence[int]]) -> str | None:
    """The shapes of tensors as "64x768, 768x3072"; None where there are none. Scalars say none."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes if len(shape)) or None


def _own(event: Event, within: list[float]) -> tuple[Event, float]:
    # Two clocks that are read one after the other can differ by a rounding.
    return event, max(0.0, event.duration_us - sum(within))
