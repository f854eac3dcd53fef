"""The project's git history, and its commits checked out one by one beside the work tree."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.build.fetch.git import reason
from bench.errors import UsageFault

_TIMEOUT_S = 300


def commit_of(root: Path, name: str) -> str:
    """The whole commit that ``name`` (a branch, a tag, HEAD~3) means.

    Raises:
        UsageFault: git knows none of that name.
    """
    hint = "git log --oneline lists the commits"
    if name.startswith("-"):
        raise UsageFault(f"'{name}' is no commit", hint=hint)
    try:
        return _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except UsageFault:
        raise UsageFault(f"git knows no commit '{name}'", hint=hint) from None


def subject(root: Path, commit: str) -> str:
    """The first line of what a commit says of itself."""
    return _git(root, "show", "--no-patch", "--format=%s", commit)


def between(root: Path, good: str, bad: str) -> list[str]:
    """The commits from ``good`` (excluded) to ``bad`` (included), oldest first.

    Only the mainline: a merge stands for what it brought.

    Raises:
        UsageFault: ``good`` is not before ``bad``.
    """
    ancestor = _git(root, "merge-base", good, bad)
    if ancestor != good or good == bad:
        raise UsageFault(
            f"{good[:12]} does not come before {bad[:12]}",
            hint="--good is the older one; both have to be on one branch",
        )
    return _git(root, "rev-list", "--reverse", "--first-parent", f"{good}..{bad}").splitlines()


@contextlib.contextmanager
def worktree(root: Path) -> Iterator[Path]:
    """A work tree of its own, at no commit yet; it leaves nothing behind.

    Raises:
        UsageFault: git cannot make one.
    """
    folder = Path(tempfile.mkdtemp(prefix="gpt-frontend-bisect-"))
    path = folder / "tree"
    try:
        _git(root, "worktree", "add", "--detach", "--no-checkout", str(path), "HEAD")
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # Of every tree whose folder is gone, those of a killed bisect too.
        with contextlib.suppress(UsageFault):
            _git(root, "worktree", "prune")


def check_out(tree: Path, commit: str) -> None:
    """Make ``tree`` hold ``commit`` and nothing else, whatever a measurement left in it.

    Raises:
        UsageFault: git cannot.
    """
    _git(tree, "checkout", "--detach", "--force", "--quiet", commit)
    _git(tree, "clean", "-ffdxq")


def _git(root: Path, *arguments: str) -> str:
    # A checkout of another user's (a mounted one, say) is refused without; a work tree of it
    # leads to two folders that would have to be named.
    command = ["git", "-c", "safe.directory=*", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageFault(f"git cannot be run: {error}", hint="apt-get install git") from error
    if done.returncode != 0:
        raise UsageFault(
            f"git {arguments[0]} failed: {reason(done.stderr) or 'it does not say why'}",
            hint="run it in a checkout of the project, with its history",
        )
    return done.stdout.strip()
