"""One sweep at a time in a directory of runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.errors import UsageFault
from bench.host import caller
from bench.host import owner as owners

LOCK = ".sweep.lock"
_DYING_S = 10.0


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the directory's lock. The kernel frees it, however the process ends.

    Raises:
        UsageFault: another sweep holds it, or it cannot be taken.
    """
    path = out / LOCK
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")  # never removed: another may have it open
        person = caller.sudo_caller(os.environ)
        if person is not None:
            os.chown(path, *person)
            if made:
                os.chown(out, *person)
    except OSError as error:
        raise _cannot(path, error) from error
    with file:
        file.seek(0)
        holder = file.read(64)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = holder.partition(":")[0]
            raise UsageFault(
                f"another sweep is at work in {out}" + (f" (process {who})" if who else ""),
                hint="wait for it, or keep this one's runs elsewhere: --out DIR",
            ) from error
        except OSError as error:
            raise _cannot(path, error) from error
        # One that is killed frees the lock a moment before it is gone: till then its run is no
        # dead host's yet.
        deadline = time.monotonic() + _DYING_S
        while owners.alive(holder) and time.monotonic() < deadline:
            time.sleep(0.01)
        _say(file, owners.mine())
        try:
            yield
        finally:
            _say(file, "")


def _say(file: IO[str], holder: str) -> None:
    file.truncate(0)
    file.write(holder)
    file.flush()


def _cannot(path: Path, error: OSError) -> UsageFault:
    return UsageFault(
        f"cannot lock {path}: {error.strerror or error}",
        hint="name a directory that you may write, on a file system with locks: --out DIR",
    )
