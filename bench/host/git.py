"""The state of the project's own checkout, and what a name means in somebody else's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.build.fetch.git import reason
from bench.errors import UsageFault

REMOTE_TIMEOUT_S = 120


def state(root: Path) -> tuple[str | None, bool | None]:
    """(commit, whether the tree, new files too, differs); (None, None) outside a checkout."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(dirty)


def resolve(url: str, ref: str, environ: Mapping[str, str]) -> str:
    """The commit that a tag, a branch or HEAD names in a repository; a whole commit is itself.

    Raises:
        UsageFault: the repository does not answer, or has no such name.
    """
    if re.fullmatch(r"[0-9a-f]{40}", ref):
        return ref
    # BatchMode: a question for a password has nobody to answer it.
    told = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **environ, "GIT_TERMINAL_PROMPT": "0"}
    names = [f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref]
    command = ["git", "ls-remote", "--exit-code", "--", url, *names]
    try:
        done = subprocess.run(
            command, env=told, capture_output=True, text=True, timeout=REMOTE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageFault(f"git cannot ask {url}: {error}", hint="git ls-remote URL") from error
    if done.returncode == 2:  # by --exit-code: it answered, and nothing matched
        raise UsageFault(
            f"{url} has no tag or branch {ref}",
            hint="git ls-remote URL lists them; a commit is taken whole, with its 40 digits",
        )
    if done.returncode != 0:
        raise UsageFault(
            f"git cannot ask {url} for {ref}: {reason(done.stderr)}",
            hint="docs/sources.md: proxies, mirrors and ssh keys; a whole commit needs no asking",
        )
    found = {name: commit for commit, name in map(str.split, done.stdout.splitlines())}
    # An annotated tag is an object of its own; what it names stands under ^{}.
    return next(found[name] for name in [*names, *found] if name in found)


def _git(root: Path, *arguments: str) -> str:
    # A checkout of another user's (a mounted one, say) is refused without safe.directory.
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
