"""The person behind the process: under sudo that is not root, and files are theirs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from bench.host import untrusted


def sudo_caller(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """(uid, gid) of who called sudo; None where this is not root through sudo."""
    uid = environ.get("SUDO_UID", "0")
    if os.getuid() != 0 or not uid.isdigit() or uid == "0":
        return None
    gid = environ.get("SUDO_GID", uid)
    return int(uid), int(gid) if gid.isdigit() else int(uid)


def give(path: Path, owner: tuple[int, int]) -> None:
    """Make ``path`` and all below it ``owner``'s (uid, gid); no link below it is followed.

    Others may be at work in the tree: what vanishes meanwhile needs no owner, and a directory
    that is a link by now leads nowhere.
    """
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        if (status.st_uid, status.st_gid) != owner:
            os.chown(path, *owner)
        if not path.is_dir():
            return
        for entry in untrusted.walk(path):
            if (entry.status.st_uid, entry.status.st_gid) != owner:
                with contextlib.suppress(FileNotFoundError):
                    os.chown(entry.name, *owner, dir_fd=entry.folder, follow_symlinks=False)
