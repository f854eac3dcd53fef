"""Following a job's output, wherever it comes from, until its end or the end of our patience."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

from bench.host.engine.base import Ending, OnLine

_POLL_S = 1.0
# What is read and not yet passed on; a job that talks faster than that has to wait.
_WAITING_LINES = 1_000
# A longer one comes in pieces: a job that never ends its line shall not fill our memory.
LONGEST_LINE = 2**16


def follow(
    lines: Iterable[str],
    timeout_s: float,
    on_line: OnLine,
    watch: Callable[[], Ending | None] = lambda: None,
    gone: Callable[[], bool] = lambda: False,
) -> Ending | None:
    """Give every line on as it comes; an ending where ``timeout_s`` ran out or ``watch`` says so.

    ``lines`` is read in a thread of its own, so that neither a silent job nor a stuck stream
    keeps the time limit or a Ctrl-C waiting. ``watch`` is called often. ``gone`` is asked now
    and then: a job that was killed may have left a child that holds its output open.
    """
    waiting: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
    over = threading.Event()

    def put(line: str | None) -> None:
        while not over.is_set():
            try:
                return waiting.put(line, timeout=_POLL_S)
            except queue.Full:
                continue

    def pump() -> None:
        try:
            for line in lines:
                put(line)
                if over.is_set():
                    return
        finally:
            put(None)

    threading.Thread(target=pump, daemon=True).start()
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            ending = watch()
            if ending is not None:
                return ending
            left = deadline - time.monotonic()
            if left <= 0:
                return Ending("timeout", detail=f"over {timeout_s:g} s")
            try:
                line = waiting.get(timeout=min(_POLL_S, left))
            except queue.Empty:
                if gone():
                    return None
                continue
            if line is None:
                return None
            on_line(line)
    finally:
        over.set()
