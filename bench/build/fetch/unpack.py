"""A tar archive unpacked into its one promised folder, and nowhere else.

Its own checks and not tarfile's filters: the Python of Debian 12 (3.11.2) has none.
"""

from __future__ import annotations

import posixpath
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path

from bench.build.fetch.fault import Fault

PROGRESS_EVERY_S = 5.0

Say = Callable[[str], None]


def unpack(archive: Path, into: Path, folder: str, say: Say) -> Path:
    """Unpack an archive whose only top folder is ``folder``; gives ``into/folder``.

    It appears whole or not at all. Files belong to whoever unpacks, without special rights.

    Raises:
        Fault: another top folder, a member that leads out of it, or a damaged archive.
    """
    target = into / folder
    if not folder or "/" in folder or folder in (".", ".."):
        raise Fault(f"not the name of a folder: {folder!r}")
    if target.exists():
        raise Fault(f"{target} is there already", hint="remove it")
    into.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder}.", dir=into))
    try:
        count = _extract(archive, scratch, folder, say)
        if not (scratch / folder).is_dir():
            raise Fault(f"{archive.name} is empty")
        (scratch / folder).rename(target)
    except (tarfile.TarError, EOFError, LZMAError, zlib.error) as error:
        raise Fault(f"{archive.name} cannot be unpacked: {error}", hint="fetch it again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(f"{archive.name}: {count} files in {target}")
    return target


def _extract(archive: Path, scratch: Path, folder: str, say: Say) -> int:
    links: set[str] = set()
    count, shown = 0, time.monotonic()
    # As a stream: to read the list first would mean to decompress everything twice.
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            name = posixpath.normpath(member.name)
            if name == "." and member.isdir():
                continue
            check(member, name, folder, links)
            if member.issym():
                links.add(name)
            member.name = name
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)
            _put(tar, member, scratch)
            count += 1
            if time.monotonic() - shown > PROGRESS_EVERY_S:
                shown = time.monotonic()
                say(f"{archive.name}: {count} files")
    return count


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, scratch: Path) -> None:
    # Checked above; later versions of Python would warn, or check by rules that vary with them.
    if hasattr(tarfile, "fully_trusted_filter"):
        tar.extract(member, scratch, filter="fully_trusted")
    else:
        tar.extract(member, scratch)


def check(member: tarfile.TarInfo, name: str, folder: str, links: set[str]) -> None:
    """Raise Fault for a member that is not under ``folder`` or that could lead out of it.

    ``name`` is the member's, normalised; ``links`` are the symbolic links before it.
    """
    top = name.split("/")[0]
    if name.startswith("/") or top == ".." or "\0" in name:
        raise Fault(f"unsafe archive: {member.name!r} is outside of it")
    if top != folder:
        raise Fault(
            f"the archive's folder is {top}, not {folder}",
            hint="name the right one: docker/pins.toml, folder",
        )
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise Fault(f"unsafe archive: {name} is a device or a pipe")
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        # The whole name too: a file written over a link would be written where it points.
        if "/".join(parts[:depth]) in links:
            raise Fault(f"unsafe archive: {name} goes through a symbolic link")
    if member.issym() or member.islnk():
        base = posixpath.dirname(name) if member.issym() else ""
        target = posixpath.normpath(posixpath.join(base, member.linkname))
        if member.linkname.startswith("/") or target.split("/")[0] != folder:
            raise Fault(f"unsafe archive: {name} links to {member.linkname}, outside of it")
        if member.islnk() and target in links:
            raise Fault(f"unsafe archive: {name} is a link to a symbolic link")
