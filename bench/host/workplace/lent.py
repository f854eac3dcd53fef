"""What of the host goes into a container: git's settings, ssh's known hosts, the ssh agent.

VS Code forwards an identity and an agent by itself, the devcontainer CLI and `docker run` do not.
So they are laid out in one folder, under fixed names, and devcontainer.json mounts them from
there. No key is copied: a key stays in the agent.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.errors import UsageFault
from bench.host.known_hosts import PINNED

# Settings that mean the same in a container. Left behind: paths, programs and credential helpers
# of the host, and signing, whose keys are not there.
TAKEN = re.compile(
    r"(user|author|committer)\.(name|email)|alias\..+|url\..+\.(pushinsteadof|insteadof)"
    r"|(branch|color|column|fetch|log|pull|push|rebase|rerere|status)(\..+)?\.\w+"
    r"|init\.defaultbranch|merge\.(conflictstyle|ff)|diff\.(algorithm|colormoved|renames)"
    r"|commit\.(cleanup|verbose)|core\.(abbrev|quotepath|whitespace)"
)
# A branch's own settings are in the checkout, which is mounted.
OF_A_BRANCH = re.compile(r"branch\..+\.(remote|merge|rebase|description|pushremote)")
# A token in an address would be copied; whoever has one forwards a key instead.
WITH_TOKEN = re.compile(r"https?://[^/]*@")
NO_AGENT = "/dev/null"


def lay_out(folder: Path, root: Path, environ: Mapping[str, str]) -> list[str]:
    """Write ``gitconfig``, ``known_hosts`` and the link ``agent`` into ``folder``.

    ``root`` is the checkout, whose place may decide what git's conditional includes give.
    Gives notes: what is not there, and what will not work without it.

    Raises:
        UsageFault: git is not installed, or its configuration is damaged.
    """
    notes = []
    settings = list(_settings(root, environ))
    _gitconfig(folder / "gitconfig", settings)
    named = {key for key, _ in settings}
    for key in ("user.name", "user.email"):
        if key not in named:
            notes.append(
                f"git has no {key} here, so a commit from inside fails: git config --global {key} …"
            )
    own = Path(environ.get("HOME") or Path.home(), ".ssh", "known_hosts")
    hosts = PINNED.read_text(encoding="utf-8")
    with contextlib.suppress(OSError):
        hosts += own.read_text(encoding="utf-8", errors="replace")
    _write(folder / "known_hosts", hosts)
    socket = _agent(environ)
    if socket is None:
        notes.append(
            "no ssh agent answers here (SSH_AUTH_SOCK), so nothing is pushed by ssh from "
            "inside: eval $(ssh-agent) && ssh-add"
        )
    beside = folder / f".agent.{os.getpid()}"
    beside.symlink_to(socket or NO_AGENT)
    beside.replace(folder / "agent")
    return notes


def _settings(root: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """git's settings as they count in the checkout, those alone that are taken along."""
    argv = ["git", "-c", f"safe.directory={root}", "-C", str(root), "config", "--null", "--list"]
    try:
        done = subprocess.run(argv, env=dict(environ), capture_output=True, text=True)
    except OSError as error:
        raise UsageFault("git is not installed", hint="apt-get install git") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise UsageFault(f"git cannot read its configuration: {said[-1]}", hint="git config --list")
    for entry in filter(None, done.stdout.split("\0")):
        key, _, value = entry.partition("\n")
        if not TAKEN.fullmatch(key) or OF_A_BRANCH.fullmatch(key) or "\n" in value:
            continue
        if not WITH_TOKEN.search(key) and not WITH_TOKEN.search(value):
            yield key, value


def _gitconfig(path: Path, settings: list[tuple[str, str]]) -> None:
    beside = path.with_name(f".gitconfig.{os.getpid()}")
    beside.write_text("")
    # Whose the mounted files are differs from engine to engine, and nobody else is in there.
    for key, value in [*settings, ("safe.directory", "*")]:
        argv = ["git", "config", "--file", str(beside), "--add", key, value]
        subprocess.run(argv, check=True, capture_output=True)
    beside.replace(path)


def _agent(environ: Mapping[str, str]) -> str | None:
    """The agent's socket; None where the variable is empty, or names none."""
    named = environ.get("SSH_AUTH_SOCK", "")
    with contextlib.suppress(OSError):
        if named and stat.S_ISSOCK(os.stat(named).st_mode):
            return os.path.realpath(named)
    return None


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
