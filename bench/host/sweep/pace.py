"""How long what is left of a sweep will take, by what its cells have taken so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

from bench.record import JobSpec

Seen = tuple[JobSpec, float]


class Pace:
    """Learns from every job that ended; ``left`` is in seconds, None while nothing is known."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: list[Seen] = []
        self._waiting: Sequence[JobSpec] = ()
        self._since = clock()

    def learn(self, spec: JobSpec, seconds: float) -> None:
        """A job of ``spec`` took so long."""
        self._seen.append((spec, seconds / _processes(spec)))

    def begin(self, waiting: Sequence[JobSpec]) -> None:
        """The first of ``waiting`` begins now; the others come after it."""
        self._waiting = waiting
        self._since = self._clock()

    def left(self) -> float | None:
        """The time until all that waits is done, the part of the first that is over taken off."""
        guesses = [self.guess(spec) for spec in self._waiting]
        if not guesses or any(guess is None for guess in guesses):
            return None
        first, *others = (guess or 0.0 for guess in guesses)
        return max(0.0, first - (self._clock() - self._since)) + sum(others)

    def guess(self, spec: JobSpec) -> float | None:
        """What a job of ``spec`` would take, by the one most like it: its time a process."""
        for alike in _alike(spec, self._seen):
            if alike:
                # The nearest by its work; of several, the one that was last.
                nearest = min(reversed(alike), key=lambda one: _distance(one[0], spec))
                return nearest[1] * _processes(spec)
        return None


def in_words(seconds: float | None) -> str:
    """A duration for people, as they would round it."""
    if seconds is None:
        return "time left unknown"
    if seconds < 60:
        return f"about {math.ceil(seconds)} s left"
    minutes = math.ceil(seconds / 60)
    return (
        f"about {minutes // 60} h {minutes % 60} min left"
        if minutes >= 60
        else (f"about {minutes} min left")
    )


def _processes(spec: JobSpec) -> int:
    return len(spec.backends) * spec.rounds


def _alike(spec: JobSpec, seen: Sequence[Seen]) -> Iterator[list[Seen]]:
    """Those seen that are of the same kind, by ever looser meanings of it."""
    for names in (("model", "mode", "device"), ("model", "device"), ("device",), ()):
        kind = [getattr(spec, name) for name in names]
        yield [one for one in seen if [getattr(one[0], name) for name in names] == kind]


def _distance(one: JobSpec, other: JobSpec) -> float:
    return abs(math.log(_tokens(one) / _tokens(other)))


def _tokens(spec: JobSpec) -> int:
    return spec.batch_size * spec.seq_len
