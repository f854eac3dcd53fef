"""A recursive checkout of one commit, from a cache that outlives a cut, held against its lock.

    python3 -m bench.build.fetch.checkout --url URL --commit SHA --gitlink PATH=SHA \\
        --into DIR --cache DIR
    python3 -m bench.build.fetch.checkout --verify-only DIR --commit SHA --gitlink PATH=SHA

What is not given on the command line comes from SOURCE_URL, SOURCE_COMMIT, SOURCE_GITLINKS (lines
``path sha``), SOURCE_BY_PARENT (lines) and SOURCE_OWN_GITLINKS (1). Mirrors are git's own
``url.<mirror>.insteadOf`` in GIT_CONFIG_GLOBAL: the addresses in the result are those given here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.build.fetch.fault import Fault, masked, say, told
from bench.build.fetch.git import Git
from bench.build.fetch.gitcache import Cache, pin
from bench.build.fetch.lock import Lock, verify
from bench.build.fetch.patience import Patience
from bench.build.fetch.submodules import listed

COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def check_out(cache: Cache, url: str, lock: Lock, into: Path) -> int:
    """Make a work tree of ``lock.commit`` with all submodules; their number.

    It is made beside ``into`` and gets its name when it has been verified.

    Raises:
        Fault: ``into`` is in use, or something could not be had.
        Faults: what was checked out is not what is locked.
    """
    if lock.commit is None:
        raise Fault("no commit to check out", hint="--commit SHA")
    into = into.absolute()
    if into.is_dir() and any(into.iterdir()):
        raise Fault(f"{into} is not empty", hint="remove it, or verify it: --verify-only DIR")
    partial = into.with_name(f"{into.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _plant(cache, url, lock.commit, partial, partial / ".git", "")
        count = verify(cache.git, partial, lock)
        partial.rename(into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _plant(cache: Cache, url: str, commit: str, tree: Path, store: Path, path: str) -> None:
    """One repository and what is in it.

    ``store`` is where its .git folder belongs, ``path`` the submodule's from the top (empty there).
    """
    git = cache.git
    try:
        _fill(cache, url, commit, tree, store, path)
    except _Damaged as damaged:
        cache.say(f"{damaged}: fetching it anew")
        cache.drop(url)
        shutil.rmtree(tree)
        shutil.rmtree(store, ignore_errors=True)
        _fill(cache, url, commit, tree, store, path)
    for inner in listed(git, store, commit, url):
        place = tree / inner.path
        if place.is_symlink() or not place.resolve().is_relative_to(tree.resolve()):
            raise Fault(f"{inner.path}: the path of a submodule leads out of its repository")
        git.out("config", f"submodule.{inner.name}.url", inner.url, cwd=tree)
        git.out("config", f"submodule.{inner.name}.active", "true", cwd=tree)
        inner_store = store / "modules" / inner.name
        whole_path = f"{path}/{inner.path}" if path else inner.path
        _plant(cache, inner.url, inner.commit, place, inner_store, whole_path)


class _Damaged(Fault):
    """A repository in the cache that git cannot read to the end."""


def _fill(cache: Cache, url: str, commit: str, tree: Path, store: Path, path: str) -> None:
    git = cache.git
    # Only the top one's address was named by the user; the others by repositories.
    with cache.holding(url, commit, asked=not path, path=path) as repository:
        tree.mkdir(parents=True, exist_ok=True)
        git.out("init", "--quiet", "--template=", ".", cwd=tree)
        if store != tree / ".git":
            _move_store(git, tree, store)
        git.out("config", "remote.origin.url", url, cwd=tree)
        git.out("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*", cwd=tree)
        # No log of refs: it would hold the name of whoever builds.
        git.out("config", "core.logAllRefUpdates", "false", cwd=tree)
        take = ("fetch", "--quiet", "--no-tags", "--depth=1", "--", str(repository), pin(commit))
        try:
            git.out(*take, cwd=tree)
            git.out("checkout", "--quiet", "--force", "--detach", commit, cwd=tree)
        except Fault as fault:
            raise _Damaged(f"{masked(url)}: {fault.message}") from fault
        (store / "FETCH_HEAD").unlink(missing_ok=True)


def _move_store(git: Git, tree: Path, store: Path) -> None:
    """Put a new repository's .git folder where `git submodule` has it, by relative paths."""
    store.parent.mkdir(parents=True, exist_ok=True)
    (tree / ".git").rename(store)
    (tree / ".git").write_text(f"gitdir: {os.path.relpath(store, tree)}\n", encoding="utf-8")
    git.out("config", "--file", "config", "core.worktree", os.path.relpath(tree, store), cwd=store)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Command line and environment as one; the command line counts."""
    parser = argparse.ArgumentParser(prog="bench.build.fetch.checkout", description=__doc__)
    parser.add_argument("--url", default=environ.get("SOURCE_URL"))
    parser.add_argument("--commit", default=environ.get("SOURCE_COMMIT") or None)
    parser.add_argument("--gitlink", action="append", default=[], metavar="PATH=SHA")
    parser.add_argument("--by-parent", action="append", default=[], metavar="PATH")
    own = environ.get("SOURCE_OWN_GITLINKS", "") not in ("", "0")
    parser.add_argument("--own-gitlinks", action="store_true", default=own)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--reference", type=Path, help="folder of mirrors to look in first")
    parser.add_argument("--verify-only", type=Path, metavar="DIR")
    parser.add_argument("--attempts", type=int, default=Patience.attempts)
    parser.add_argument("--pause", type=float, default=Patience.pause_s, help="the first, seconds")
    return parser.parse_args(argv)


def locked(options: argparse.Namespace, environ: Mapping[str, str]) -> Lock:
    """The lock that the options and the environment give.

    Raises:
        Fault: something that is no commit, or a line that is not ``path sha``.
    """
    links: dict[str, str] = {}
    pairs = [line.rpartition(" ") for line in _lines(environ, "SOURCE_GITLINKS")]
    pairs += [text.rpartition("=") for text in options.gitlink]
    for path, separator, commit in pairs:
        if not separator or not COMMIT.fullmatch(commit):
            raise Fault(f"not a path and a commit: {path}{separator}{commit}", hint="PATH=SHA")
        links[path.strip()] = commit
    if options.commit is not None and not COMMIT.fullmatch(options.commit):
        raise Fault(f"not a commit: {options.commit}", hint="a commit's whole name, 40 digits")
    by_parent = frozenset([*_lines(environ, "SOURCE_BY_PARENT"), *options.by_parent])
    return Lock(options.commit, links, by_parent, options.own_gitlinks)


def _lines(environ: Mapping[str, str], name: str) -> list[str]:
    return [line.strip() for line in environ.get(name, "").splitlines() if line.strip()]


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The step: its exit status, 0 where the tree is there and is what is locked."""
    options = parse(argv, environ)

    def step() -> None:
        lock, git = locked(options, environ), Git.of(environ)
        if options.verify_only is not None:
            count = verify(git, options.verify_only, lock)
            say(f"{options.verify_only}: {count} submodules, each as locked")
            return
        if not (options.url and options.commit and options.into and options.cache):
            raise Fault("too little given", hint="--url URL --commit SHA --into DIR --cache DIR")
        patience = Patience(max(options.attempts, 1), options.pause)
        # A build without mirrors mounts an empty folder.
        named = options.reference
        reference = named if named and named.is_dir() and any(named.iterdir()) else None
        cache = Cache(options.cache.absolute(), git, patience, say, reference)
        count = check_out(cache, options.url, lock, options.into)
        say(f"{options.into}: {lock.commit} and {count} submodules, each as locked")

    return told(step)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))
