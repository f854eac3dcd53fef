"""Ctrl-C and its kin: when they may end the work, and when they have to wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen() -> None:
    """Make SIGTERM and a closed terminal end the work as Ctrl-C does, with its clean-up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asked for the contrary
        signal.signal(signal.SIGHUP, signal.default_int_handler)


@contextlib.contextmanager
def held(*, then_raise: bool = False) -> Iterator[None]:
    """Let what is inside come to its end: a second Ctrl-C must not cut a clean-up short.

    With ``then_raise`` a signal that came meanwhile is raised at the end, as KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came and then_raise:
        raise KeyboardInterrupt
