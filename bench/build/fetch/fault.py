"""What a build step can expect to go wrong, and how it is told: ``error: …`` and ``hint: …``."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

INTERRUPTED = 130


class Fault(Exception):
    """An expected failure: what happened, and what one can do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Passing(Fault):
    """A failure that may be gone at the next attempt.

    ``further`` says that the attempt brought the work on, so that it does not count as one more.
    """

    def __init__(self, message: str, *, hint: str | None = None, further: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.further = further


class Faults(Exception):
    """Several failures found together, each told on its own."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)


def masked(text: str) -> str:
    """A text in which no URL carries a user name or a password."""
    return re.sub(r"(?<=://)[^/\s@'\"]+@", "****@", text)


def say(line: str) -> None:
    """One line of progress, at once: a build's log is read while it grows."""
    print(masked(line), flush=True)


def told(action: Callable[[], None]) -> int:
    """Run a step; the status to exit with. No failure that one can expect shows a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        action()
    except Faults as several:
        for fault in several.faults:
            _tell(fault.message, fault.hint)
        return 1
    except Fault as fault:
        _tell(fault.message, fault.hint)
        return 1
    except OSError as error:
        _tell(str(error), "is there space, and may this user write there?")
        return 1
    except KeyboardInterrupt:
        _tell("interrupted", "run it again: what is finished is in the cache and is not repeated")
        return INTERRUPTED
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(message: str, hint: str | None) -> None:
    print(f"error: {masked(message)}", file=sys.stderr)
    if hint:
        # Our own words: an address in them is an example, such as where a password goes.
        print(f"hint: {hint}", file=sys.stderr, flush=True)
