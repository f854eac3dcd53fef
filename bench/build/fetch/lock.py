"""A checkout against the list of commits that docker/pins.toml locks.

The question is put to git itself, by `git submodule status --recursive`, and its answer is held
against the lock; what git does not look at, deleted files, is looked for beside it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.build.fetch.fault import Fault, Faults
from bench.build.fetch.git import Git
from bench.build.fetch.submodules import gitlinks, nested_gitlinks

PINS = "docker/pins.toml"


@dataclass(frozen=True)
class Lock:
    """The commit of a tree and of every submodule in it, by path from its top.

    ``by_parent`` are paths that are in no list: the tree of the submodule around them fixes their
    commit. With ``own`` the tree's own gitlinks are the list (for a commit that nobody locked).
    """

    commit: str | None = None
    gitlinks: Mapping[str, str] = field(default_factory=dict)
    by_parent: frozenset[str] = frozenset()
    own: bool = False


@dataclass(frozen=True)
class Status:
    """A line of `git submodule status`: ``flag`` is a blank, ``-``, ``+`` or ``U``."""

    flag: str
    commit: str
    path: str


def verify(git: Git, tree: Path, lock: Lock) -> int:
    """Hold a work tree against its lock; the number of submodules.

    Raises:
        Fault: it is no git checkout.
        Faults: what is missing, different, conflicting, too many or incomplete, each with the
            command that mends it.
    """
    if not (tree / ".git").exists():
        raise Fault(f"{tree} is not a git checkout", hint="clone it: archives lack submodules")
    found = statuses(git.out("submodule", "status", "--recursive", cwd=tree))
    faults = [*_of_the_top(git, tree, lock), *_of_submodules(git, tree, found, lock)]
    missing = {status.path for status in found if status.flag == "-"}
    for path in ["", *(status.path for status in found if status.path not in missing)]:
        faults += _of_files(git, tree, path)
    if faults:
        raise Faults(faults)
    return len(found)


def statuses(text: str) -> list[Status]:
    """The lines of `git submodule status`; the description in brackets at the end is dropped."""
    lines = re.findall(
        r"^([ +U-])([0-9a-f]{40,64}) (.+?)(?: \([^()]*(?:\(null\))?\))?$", text, re.M
    )
    return [Status(*line) for line in lines]


def _of_the_top(git: Git, tree: Path, lock: Lock) -> Iterator[Fault]:
    head = git.out("rev-parse", "HEAD", cwd=tree).strip()
    if lock.commit is not None and head != lock.commit:
        yield Fault(
            f"{tree}: checked out {head}, locked {lock.commit}",
            hint=f"git -C {shlex.quote(str(tree))} checkout --recurse-submodules {lock.commit}",
        )


def _of_submodules(git: Git, tree: Path, found: Sequence[Status], lock: Lock) -> Iterator[Fault]:
    recorded = dict(nested_gitlinks(git, tree))
    locked = recorded if lock.own else dict(lock.gitlinks)
    for status in found:
        path, mend = status.path, update_command(tree, status.path, found)
        parents = recorded.get(path, status.commit)
        wanted = parents if path in lock.by_parent else locked.get(path)
        if wanted is None:
            yield Fault(
                f"{path}: a submodule that is not locked, at {status.commit}",
                hint=f'add it to the gitlinks of the source in {PINS}: "{path}" = "{parents}"',
            )
        elif status.flag == "-":
            yield Fault(f"{path}: missing: nothing checked out, locked {wanted}", hint=mend)
        elif status.flag == "U":
            yield Fault(
                f"{path}: in conflict: several commits, locked {wanted}",
                hint=f"git -C {shlex.quote(str(tree))} merge --abort; {mend}",
            )
        elif status.flag == "+":
            yield Fault(
                f"{path}: different: checked out {status.commit}, its parent records {parents}, "
                f"locked {wanted}",
                hint=mend,
            )
        elif status.commit != wanted:
            yield Fault(
                f"{path}: different: checked out {status.commit}, locked {wanted}",
                hint=f"if the commit that the tree records is meant, lock it in {PINS}: "
                f'"{path}" = "{parents}"',
            )
    there = {status.path for status in found}
    absent = {path for path, _ in _around(there, found)}
    for path in sorted({*locked, *lock.by_parent} - there):
        around = next((outer for outer in sorted(absent) if path.startswith(f"{outer}/")), None)
        wanted = locked.get(path, "its parent's commit")
        if around is not None:
            yield Fault(
                f"{path}: missing: {around}, which holds it, is not checked out; locked {wanted}",
                hint=update_command(tree, around, found),
            )
        else:
            yield Fault(
                f"{path}: locked at {wanted}, but the tree records no submodule there",
                hint=f"take it out of {PINS}, or name the commit that has it",
            )


def _around(there: set[str], found: Sequence[Status]) -> list[tuple[str, str]]:
    """The submodules that are not checked out: what is in them cannot be seen."""
    return [(status.path, status.commit) for status in found if status.flag == "-"]


def _of_files(git: Git, tree: Path, path: str) -> Iterator[Fault]:
    """Files that the commit has and the work tree has not."""
    inside = set(gitlinks(git, tree / path))
    listing = git.out("ls-files", "--deleted", "-z", cwd=tree / path)
    gone = [name for name in listing.split("\0") if name and name not in inside]
    if gone:
        where = str(tree / path) if path else str(tree)
        yield Fault(
            f"{path or tree}: {len(gone)} files of its commit are not there, such as {gone[0]}",
            hint=f"git -C {shlex.quote(where)} checkout -- .",
        )


def update_command(tree: Path, path: str, found: Sequence[Status]) -> str:
    """The command that checks a submodule out: git wants it from the repository around it."""
    outer = [status.path for status in found if path.startswith(f"{status.path}/")]
    parent = max(outer, key=len, default="")
    inner = path[len(parent) + 1 :] if parent else path
    where = shlex.quote(str(tree / parent))
    return f"git -C {where} submodule update --init --recursive -- {shlex.quote(inner)}"
