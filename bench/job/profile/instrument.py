"""TVM's Relax virtual machine, asked before and after every call that it makes.

``VirtualMachine.set_instrument`` is the same in v0.23.0 and in 0.27, where the profiling
virtual machine of v0.23.0 (``profile=True``) is no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.job.profile.events import Event, Recording, shapes_of

_OF_THE_MACHINE = "vm."  # its own functions: they take more than tensors, of any shape


class Instrument:
    """What a virtual machine calls around every kernel and function that it runs.

    The device is waited for before each is started and before its time is taken, so that the
    time is its own on a GPU too.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._begun: list[int] = []  # of those that are running: they may call one another
        self._events: list[tuple[str, int, int]] = []  # name, from, to
        self._shapes: dict[str, str | None] = {}

    def __call__(
        self, function: Any, name: str, before: bool, returned: Any, *arguments: Any
    ) -> None:
        self._synchronize()
        now = time.perf_counter_ns()
        if not before:
            self._events.append((name, self._begun.pop(), now))
            return
        if name not in self._shapes:  # those of a kernel are compiled into it
            known = not name.startswith(_OF_THE_MACHINE)
            shapes = [getattr(one, "shape", ()) for one in arguments] if known else []
            self._shapes[name] = shapes_of(shapes)
        self._begun.append(time.perf_counter_ns())

    def record(self, call: Callable[[], object], again: Callable[[], bool]) -> list[Recording]:
        """As ``kineto.record``, of calls into the machines that have this instrument."""
        recordings = []
        going = True
        while going:
            self._synchronize()
            self._events.clear()
            self._begun.clear()
            begin = time.perf_counter_ns()
            call()
            self._synchronize()
            end = time.perf_counter_ns()
            events = [
                Event(name, (start - begin) / 1e3, (stop - start) / 1e3, shapes=self._shapes[name])
                for name, start, stop in self._events
            ]
            recordings.append(Recording(events, (end - begin) / 1e3))
            going = again()
        return recordings
