"""One build at a time at one thing in a shared cache."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, say: Callable[[str], None], what: str) -> Iterator[int]:
    """Hold the lock ``path`` for the block; gives its descriptor.

    A child that inherits the descriptor (``pass_fds``) holds the lock as well, so that a program
    that outlives this process keeps other builds out until it has ended. The system lets go of it
    with the last holder: there are no stale locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what}: waiting for another build that uses it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
