"""The person behind the process: under sudo that is not root, and files are theirs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def sudo_caller(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """(uid, gid) of who called sudo; None where this is not root through sudo."""
    uid = environ.get("SUDO_UID", "0")
    if os.getuid() != 0 or not uid.isdigit() or uid == "0":
        return None
    gid = environ.get("SUDO_GID", uid)
    return int(uid), int(gid) if gid.isdigit() else int(uid)


def give(path: Path, owner: tuple[int, int]) -> None:
    """Make ``path`` and all below it ``owner``'s (uid, gid); links are not followed.

    Others may be at work in the tree: what vanishes meanwhile needs no owner.
    """
    _chown(path, owner)
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            _chown(Path(parent, name), owner)


def _chown(path: Path, owner: tuple[int, int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        now = path.lstat()
        if (now.st_uid, now.st_gid) != owner:
            os.chown(path, *owner, follow_symlinks=False)
