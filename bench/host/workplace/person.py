"""Who works in a container: the caller, or who is behind sudo; files are theirs on both sides."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.host import caller


@dataclass(frozen=True)
class Person:
    """``uid`` and ``gid`` are those inside; ``owner`` those of the files that the host lays out.

    ``environ`` is the caller's, with HOME and USER of who is behind sudo.
    """

    uid: int
    gid: int
    owner: tuple[int, int]
    environ: Mapping[str, str]

    @property
    def home(self) -> Path:
        """Where their own settings are."""
        return Path(self.environ["HOME"])


def of_caller(security_options: Sequence[str], environ: Mapping[str, str]) -> Person:
    """The caller, for an engine with these security options (`docker info`).

    Unlike a job, work is done as the very caller: a root caller is root inside, since what they
    mount is root's. A rootless engine's root is the caller.
    """
    owner = caller.sudo_caller(environ) or (os.getuid(), os.getgid())
    names = {part.removeprefix("name=") for one in security_options for part in one.split(",")}
    uid, gid = (0, 0) if "rootless" in names else owner
    told = dict(environ)
    try:
        known = pwd.getpwuid(owner[0])
        name, home = known.pw_name, known.pw_dir
    except KeyError:  # a uid without a name, as in a container
        name, home = str(owner[0]), "/"
    if owner[0] != os.getuid():
        told.update(HOME=home, USER=name)
    told.setdefault("HOME", home)
    return Person(uid, gid, owner, told)
