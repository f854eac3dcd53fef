"""Following output: whatever a job says, or does not say, its bounds are kept."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

from bench.host.engine.base import Ending
from bench.host.engine.stream import follow


def test_all_lines_come_in_order_to_the_end() -> None:
    said: list[str] = []
    many = [str(number) for number in range(5_000)]  # more than may wait
    assert follow(many, 60, said.append) is None
    assert said == many


def test_a_job_that_never_stops_talking_is_stopped_at_its_time() -> None:
    ending = follow(itertools.repeat("word"), 0.2, lambda line: None)
    assert ending == Ending("timeout", detail="over 0.2 s")


def test_the_watch_ends_a_job_that_talks_and_one_that_is_silent() -> None:
    over = Ending("disk budget", detail="over 1 MiB")
    assert follow(itertools.repeat("word"), 60, lambda line: None, lambda: over) == over
    released = threading.Event()

    def silent() -> Iterator[str]:
        released.wait()
        yield from ()

    calls = itertools.count()
    found = follow(silent(), 60, lambda line: None, lambda: over if next(calls) > 1 else None)
    released.set()
    assert found == over


def test_what_is_not_taken_is_not_hoarded() -> None:
    """A job that talks faster than it is listened to has to wait."""
    given = 0
    first = threading.Event()

    def lines() -> Iterator[str]:
        nonlocal given
        for given in range(1, 1_000_000):  # noqa: B007  # counted for the assertion
            yield "word"

    def slow(line: str) -> None:
        if not first.is_set():
            first.set()
            threading.Event().wait(0.3)

    calls = itertools.count()
    over = Ending("disk budget")
    assert follow(lines(), 60, slow, lambda: over if next(calls) > 1 else None) == over
    assert given <= 1_100
