"""Following a job's output, wherever it comes from, until its end or its time is over."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

from bench.host.engine.base import OnLine

_POLL_S = 1.0


def follow(
    lines: Iterable[str],
    timeout_s: float,
    on_line: OnLine,
    gone: Callable[[], bool] = lambda: False,
) -> bool:
    """Give every line on as it comes; True when ``timeout_s`` ran out first.

    ``lines`` is read in a thread of its own, so that neither a silent job nor a stuck stream
    keeps the time limit or a Ctrl-C waiting. ``gone`` is asked now and then: a job that was
    killed may have left a child that holds its output open.
    """
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def pump() -> None:
        try:
            for line in lines:
                waiting.put(line)
        finally:
            waiting.put(None)

    threading.Thread(target=pump, daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            line = waiting.get(timeout=max(0.0, min(_POLL_S, deadline - time.monotonic())))
        except queue.Empty:
            if time.monotonic() >= deadline:
                return True
            if gone():
                return False
            continue
        if line is None:
            return False
        on_line(line)
