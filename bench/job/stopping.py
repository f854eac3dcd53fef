"""A request to stop that is seen between two steps, so that no update is left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether the work is asked to end, and by which signal."""

    by: str | None = None

    @property
    def requested(self) -> bool:
        return self.by is not None


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request for the block; the handlers before come back.

    A second one changes nothing: a group of processes may be told twice. Outside the main
    thread, where Python sets no handlers, nothing is caught.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.by = signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
