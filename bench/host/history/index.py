"""An index of the runs in SQLite, so that ten thousand of them are listed in a moment.

The run directories are the truth: every use compares the index with them, reads again what has
changed, and publishes the result by one rename. The file is read whole, never written in place,
so that readers and writers need no locks, a kill leaves the old one, and of two writers the last
wins, whose losses the next use finds again. It ends in a digest over its content and the code that
made it: a damaged one, or one of another version, is passed over and made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from bench import record as record_module
from bench import training as training_module
from bench.errors import UsageFault
from bench.host import caller, runs
from bench.host.history import entry as entry_module
from bench.host.history import identity
from bench.host.history.entry import Entry, Measured
from bench.host.report import plain

INDEX = ".index.sqlite"
_ABANDONED_S = 3600.0  # a temporary index of a killed process, past any doubt
_RACY_NS = 2 * 10**9  # within the clock's tick a file can change and keep its times
_LARGEST = 512 * 2**20  # bytes of a record that is read; ten thousand samples are 200 kB
_DIGEST = hashlib.sha256().digest_size

Progress = Callable[[str], None]

_ENTRY = [field.name for field in fields(Entry) if field.name != "measured"]
_MEASURED = Measured._fields
_SCHEMA = (
    # Directory names are bytes that need not be UTF-8.
    "CREATE TABLE runs (directory BLOB PRIMARY KEY, stamp TEXT, problem TEXT, "
    f"{', '.join(_ENTRY)})",
    f"CREATE TABLE measured (directory BLOB, {', '.join(_MEASURED)})",
    "CREATE INDEX measured_of ON measured (directory)",
)


def open_index(out: Path, progress: Progress | None = None) -> sqlite3.Connection:
    """The index of the runs under ``out``, true to its directories as they are now, in memory.

    Tables: ``runs`` (an ``Entry`` a row, or the ``problem`` why it could not be read) and
    ``measured``. ``progress`` is told of records that have to be read. An ``out`` that cannot be
    written is no hindrance: its index is made again each time.
    """
    memory = _load(out / INDEX) or _blank()
    changed = False
    try:
        for done, total in _synchronise(memory, out):
            changed = True
            if progress and done % 100 == 0:
                progress(f"{done} of {total} records read")
    finally:  # interrupted, it keeps what it has read
        if changed:
            _save(memory, out)
    return memory


def _synchronise(memory: sqlite3.Connection, out: Path) -> Iterator[tuple[int, int]]:
    """Make the tables say what the directories say; yields (done, total) after each change."""
    known = dict(memory.execute("SELECT directory, stamp FROM runs"))
    present = dict(_stamps(out))
    todo = [name for name, stamp in present.items() if not stamp or known.get(name) != stamp]
    stale = (known.keys() - present.keys()) | (known.keys() & set(todo))
    for name in stale:
        memory.execute("DELETE FROM runs WHERE directory = ?", (name,))
        memory.execute("DELETE FROM measured WHERE directory = ?", (name,))
    if stale and not todo:
        yield 0, 0
    for done, name in enumerate(todo, start=1):
        _add(memory, out, name, present[name])
        yield done, len(todo)


def _stamps(out: Path) -> Iterator[tuple[bytes, str]]:
    """(directory name, stamp of its record) of every published run."""
    try:
        found = os.scandir(os.fsencode(out))
    except OSError:
        return
    with found:
        for one in found:
            if one.name.endswith(os.fsencode(runs.PARTIAL)):
                continue
            try:
                status = os.stat(os.path.join(one.path, os.fsencode(runs.RECORD)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                yield one.name, ""
                continue
            if stat.S_ISREG(status.st_mode):
                yield one.name, _stamp(status)


def _stamp(status: os.stat_result) -> str:
    """What changes when a file does; empty, which is read again each time, where it may not."""
    if abs(time.time_ns() - status.st_mtime_ns) < _RACY_NS:
        return ""
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {status.st_ino}"


def _add(memory: sqlite3.Connection, out: Path, name: bytes, stamp: str) -> None:
    directory = out / os.fsdecode(name)
    try:
        if (directory / runs.RECORD).stat().st_size > _LARGEST:
            raise UsageFault(f"{directory / runs.RECORD} is over {_LARGEST // 2**20} MiB")
        made = entry_module.of(directory.name, identity.read(directory))
    except FileNotFoundError:  # removed since
        return
    except (UsageFault, OSError) as error:
        row: tuple[object, ...] = (name, stamp, plain(str(error)), *[None] * len(_ENTRY))
        measured: tuple[Measured, ...] = ()
    else:
        row = (name, stamp, None, *(getattr(made, field) for field in _ENTRY))
        measured = made.measured
    memory.execute(f"INSERT INTO runs VALUES ({_marks(row)})", row)
    for one in measured:
        values = (name, *one)
        memory.execute(f"INSERT INTO measured VALUES ({_marks(values)})", values)


def _blank() -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:")
    for statement in _SCHEMA:
        memory.execute(statement)
    return memory


def _load(path: Path) -> sqlite3.Connection | None:
    """The index at ``path``; None where there is none, or none that can be trusted."""
    try:
        if not path.is_file() or not _whole(path.read_bytes()):
            return None
        # immutable: no lock is taken and no journal is looked for.
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as file:
            memory = sqlite3.connect(":memory:")
            file.backup(memory)
            return memory
    except (OSError, sqlite3.Error):
        return None


def _save(memory: sqlite3.Connection, out: Path) -> None:
    """Publish the index; one that cannot be kept is made again next time."""
    temporary = out / f"{INDEX}.{secrets.token_hex(4)}.tmp"
    try:
        memory.commit()
        # Not forced to the disk: one that a power cut tears is known by its digest.
        with contextlib.closing(sqlite3.connect(temporary)) as file:
            file.execute("PRAGMA journal_mode = OFF")
            file.execute("PRAGMA synchronous = OFF")
            memory.backup(file)
        # SQLite reads as many pages as the header counts, and lets be what follows them.
        with temporary.open("r+b") as raw:
            digest = _digest(raw.read())
            raw.write(digest)
        owner = caller.sudo_caller(os.environ)
        if owner is not None:
            caller.give(temporary, owner)
        temporary.replace(out / INDEX)
        _remove_abandoned(out)
    except (OSError, sqlite3.Error):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_abandoned(out: Path) -> None:
    for path in out.glob(f"{INDEX}.*.tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _whole(content: bytes) -> bool:
    return len(content) > _DIGEST and content[-_DIGEST:] == _digest(content[:-_DIGEST])


def _digest(content: bytes) -> bytes:
    """Over the content and the code that reads records: another version may read them otherwise."""
    summed = hashlib.sha256()
    for source in (record_module, training_module, runs, identity, entry_module):
        summed.update(Path(str(source.__file__)).read_bytes())
    summed.update(Path(__file__).read_bytes())
    summed.update(content)
    return summed.digest()


def _marks(row: tuple[object, ...]) -> str:
    return ", ".join("?" * len(row))
