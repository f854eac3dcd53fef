"""What a job leaves in a directory, taken for what it may be: links, pipes, a tree without end.

A job writes its run directory and the store as it likes, while the host looks on and after. So
nothing here follows a link, opens a pipe, reads without a bound or goes deeper than a run does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

# Ours are three deep. So many names of 255 bytes are still a path that the kernel takes.
DEEPEST = 12
_BLOCK = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMED = 5

_KINDS: dict[int, str] = {
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@dataclass(frozen=True)
class Entry:
    """One name in a tree. ``folder`` is its directory, open; ``where`` is told from the root."""

    folder: int
    name: str
    where: str
    status: os.stat_result


@dataclass(frozen=True)
class Usage:
    """What a tree takes of the disk. ``hidden`` says of what it could not be told."""

    bytes: int = 0
    files: int = 0
    hidden: str | None = None


def read(path: os.PathLike[str], most_bytes: int) -> bytes:
    """The file at ``path``.

    Raises:
        OSError: there is none, it is no regular file, or it is larger than ``most_bytes``.
    """
    with _opened(path) as (file, size):
        if size > most_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return _exactly(file, size)


def tail(path: os.PathLike[str], most_bytes: int) -> bytes:
    """The last ``most_bytes`` of the file at ``path``, or all of it.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    with _opened(path) as (file, size):
        wanted = min(size, most_bytes)
        os.lseek(file, size - wanted, os.SEEK_SET)
        return _exactly(file, wanted)


def walk(
    root: Path, refused: Callable[[Entry, str], None] = lambda entry, why: None
) -> Iterator[Entry]:
    """All below ``root``, a directory after what is in it; what vanishes meanwhile is left out.

    ``refused`` is told of directories that cannot be entered, or are too deep to be.

    Raises:
        OSError: ``root`` itself cannot be read.
    """
    folder = os.open(root, _DIRECTORY)
    try:
        yield from _walk(folder, "", DEEPEST, refused)
    finally:
        os.close(folder)


def measure(root: Path, *, most_bytes: int | None = None, most_files: int | None = None) -> Usage:
    """What the tree takes, every name at least a block; counted no further than past a bound."""
    hidden: list[str] = []
    found = files = 0

    def refused(entry: Entry, why: str) -> None:
        hidden.append(f"{entry.where!r}: {why}")

    with contextlib.suppress(OSError):  # not made yet
        for entry in walk(root, refused):
            found += max(entry.status.st_blocks * 512, _BLOCK)
            files += 1
            if most_bytes is not None and found > most_bytes:
                break
            if most_files is not None and files > most_files:
                break
    return Usage(found, files, hidden[0] if hidden else None)


def settle(root: Path) -> list[str]:
    """Leave only plain files and directories of their owner's in the tree of a job that is over.

    Links, pipes, sockets and devices go, and so do directories that are too deep. What is left
    loses its set-uid bits, others' right to write to it, and any shield against its owner.

    Returns:
        What was removed, in words.
    """
    removed: list[str] = []
    deep: list[str] = []

    def refused(entry: Entry, why: str) -> None:
        deep.append(entry.where.split("/")[0])

    with contextlib.suppress(OSError):
        _open_up(root)
        for entry in walk(root, refused):
            kind = stat.S_IFMT(entry.status.st_mode)
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                _plain(entry)
                continue
            target = ""
            with contextlib.suppress(OSError):
                if kind == stat.S_IFLNK:
                    target = f" to {os.readlink(entry.name, dir_fd=entry.folder)!r}"
                os.unlink(entry.name, dir_fd=entry.folder)
            removed.append(f"{_KINDS.get(kind, 'file')} {entry.where!r}{target}")
    for where in dict.fromkeys(deep):
        remove(root / where)
        removed.append(f"directory {where!r}, which is too deep")
    return _first(removed)


def shrink(root: Path, most_bytes: int, most_files: int, kept: Collection[str] = ()) -> list[str]:
    """Remove the largest files until the tree of a job that is over is within its bounds.

    Those at or below the names in ``kept``, told from the root, stay whatever their size. Of a
    tree of more than ``most_files`` names nothing else stays.

    Returns:
        What was removed, in words.
    """
    files, total = [], 0
    with contextlib.suppress(OSError):
        if measure(root, most_files=most_files).files > most_files:
            names = [name for name in sorted(os.listdir(root)) if name not in kept]
            for name in names:
                remove(root / name)
            return _first([f"entry {name!r}" for name in names])
        for entry in walk(root):
            size = max(entry.status.st_blocks * 512, _BLOCK)
            total += size
            if stat.S_ISREG(entry.status.st_mode) and entry.where.split("/")[0] not in kept:
                files.append((size, entry.where))
    removed = []
    for size, where in sorted(files, reverse=True):
        if total <= most_bytes:
            break
        with contextlib.suppress(OSError):
            (root / where).unlink()
            total -= size
            removed.append(f"file {where!r} of {size / 2**20:.0f} MiB")
    return _first(removed)


def remove(path: Path) -> None:
    """Remove a file or a tree of any depth, as far as that is allowed.

    Directories inside are brought up to the top one by one: a path as long as a job may nest
    them is one that the kernel does not take, and a recursion that Python does not.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
            with os.scandir(folder) as entries:
                names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_folder in names:
                _lift(folder / name, path, is_folder, waiting)
        if folder != path:
            with contextlib.suppress(OSError):
                folder.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _lift(inside: Path, top: Path, is_folder: bool, waiting: list[Path]) -> None:
    with contextlib.suppress(OSError):
        if not is_folder:
            inside.unlink()
            return
        inside.chmod(0o700)  # the kernel wants to write its `..`
        if inside.parent != top:
            inside = inside.rename(top / f"removed-{secrets.token_hex(8)}")
        waiting.append(inside)


@contextlib.contextmanager
def _opened(path: os.PathLike[str]) -> Iterator[tuple[int, int]]:
    # Without O_NONBLOCK a pipe would keep us waiting for who writes to it.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file, status.st_size
    finally:
        os.close(file)


def _exactly(file: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _walk(
    folder: int, above: str, deeper: int, refused: Callable[[Entry, str], None]
) -> Iterator[Entry]:
    with os.scandir(folder) as entries:
        for found in entries:
            try:
                status = os.stat(found.name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:  # a directory that may be listed and not entered
                unknown = os.stat_result((0,) * 10)
                entry = Entry(folder, found.name, f"{above}{found.name}", unknown)
                refused(entry, error.strerror or "unreadable")
                continue
            entry = Entry(folder, found.name, f"{above}{found.name}", status)
            if stat.S_ISDIR(status.st_mode):
                yield from _inside(entry, deeper, refused)
            yield entry


def _inside(entry: Entry, deeper: int, refused: Callable[[Entry, str], None]) -> Iterator[Entry]:
    if deeper == 0:
        refused(entry, f"more than {DEEPEST} directories deep")
        return
    try:
        # A link that has taken the directory's place since is not followed.
        inner = os.open(entry.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=entry.folder)
    except FileNotFoundError:
        return
    except OSError as error:
        refused(entry, error.strerror or "unreadable")
        return
    try:
        yield from _walk(inner, f"{entry.where}/", deeper - 1, refused)
    finally:
        os.close(inner)


def _open_up(root: Path) -> None:
    """Give the owner every directory of the tree to read and enter, from the top down."""
    waiting = [(root, DEEPEST)]
    while waiting:
        folder, deeper = waiting.pop()
        with contextlib.suppress(OSError):
            if stat.S_IMODE(folder.lstat().st_mode) & 0o700 != 0o700:
                folder.chmod(0o700)
            with os.scandir(folder) as entries:
                inner = [Path(found) for found in entries if found.is_dir(follow_symlinks=False)]
            waiting += [(found, deeper - 1) for found in inner if deeper > 0]


def _plain(entry: Entry) -> None:
    mode = stat.S_IMODE(entry.status.st_mode)
    wanted = (mode & ~0o7002) | 0o600
    if wanted != mode:
        with contextlib.suppress(OSError):
            os.chmod(entry.name, wanted, dir_fd=entry.folder)


def _first(said: list[str]) -> list[str]:
    more = len(said) - _NAMED
    return said[:_NAMED] + ([f"{more} more"] if more > 0 else [])
