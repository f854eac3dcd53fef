"""Clocks beside the host's: what the device itself says that a call took.

The headline is the host's (``measure``), for a user waits for launches and for the wait itself,
too. CUDA events, recorded on the stream around the very same call, say how much of it was the
device's. They tell only of the stream that they are recorded on: where a backend runs on another,
or on one that cannot be seen, there is no second figure, and the clock's name says why.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from bench.job.backends.base import Ready, Streamed


class Clock(Protocol):
    """Around one call: ``begin`` before it, ``end`` after it, ``read`` when the device is done.

    ``name`` is what a record says the times were taken with.
    """

    @property
    def name(self) -> str: ...

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def read(self) -> float | None:
        """Milliseconds of the device's clock; None where there is none."""


class Host:
    """Nothing beside the host's clock; ``why`` says so where a GPU's could be expected."""

    def __init__(self, why: str | None = None) -> None:
        self.name = f"host; no CUDA events: {why}" if why else "host"

    def begin(self) -> None:
        """Nothing to record."""

    def end(self) -> None:
        """Nothing to record."""

    def read(self) -> float | None:
        return None


class Events:
    """Two CUDA events on one stream, used anew for every call.

    ``cuda`` is ``torch.cuda``, or what stands in for it. The time between two events is that of
    the device, in steps of about half a microsecond (CUDA's cudaEventElapsedTime).
    """

    name = "host and CUDA events"

    def __init__(self, cuda: Any, stream: Any) -> None:
        self._stream = stream
        self._first = cuda.Event(enable_timing=True)
        self._last = cuda.Event(enable_timing=True)
        # PyTorch makes an event when it is first recorded, which would be in the first sample.
        self.begin()
        self.end()
        self._last.synchronize()

    def begin(self) -> None:
        self._first.record(self._stream)

    def end(self) -> None:
        self._last.record(self._stream)

    def read(self) -> float:
        # The backend has waited in its own way; for the event itself nothing vouches but this.
        self._last.synchronize()
        return float(self._first.elapsed_time(self._last))


HOST = Host()


def beside(ready: Ready, device: str, cuda: Any = torch.cuda) -> Clock:
    """The clock for calls of ``ready`` on ``device`` ("cpu" or "cuda").

    CUDA events where the stream that the backend queues its calls on is PyTorch's current one, on
    which they are recorded; by default both are CUDA's legacy default stream, number 0.
    """
    if device != "cuda":
        return HOST
    theirs = ready.cuda_stream() if isinstance(ready, Streamed) else None
    if theirs is None:
        return Host("the backend does not tell which stream it runs on")
    if not cuda.is_available():
        return Host("PyTorch, which records them, sees no GPU")
    ours = cuda.current_stream()
    if ours.cuda_stream != theirs:
        return Host(f"the backend runs on stream {theirs:#x}, PyTorch on {ours.cuda_stream:#x}")
    return Events(cuda, ours)
