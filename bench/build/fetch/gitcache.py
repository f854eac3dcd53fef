"""Repositories kept as bare ones from build to build, each commit in them complete.

A commit that has been fetched whole has a ref, ``refs/pins/<commit>``: git writes it only after it
has seen every object. What has one is not fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.build.fetch import lockfile
from bench.build.fetch.fault import Fault, masked
from bench.build.fetch.git import Git, Refused, Say
from bench.build.fetch.patience import Patience

ALL_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
# Reasons for which HTTP/1.1 may get through where HTTP/2 did not.
HTTP2_TROUBLE = "HTTP/2|RPC failed|curl (16|56|92)"


def pin(commit: str) -> str:
    """The ref that says that a commit is here with all its objects."""
    return f"refs/pins/{commit}"


def layout(url: str) -> str:
    """Where a repository lies in a folder of mirrors: ``github.com/apache/tvm.git``.

    The same for each way to write an address, with ``.git`` or without.

    Raises:
        Fault: an address of which no safe path can be made.
    """
    found = re.fullmatch(r"\w+://(?:[^/@]*@)?([^/:]*)(?::\d+)?/+(.+)", url) or re.fullmatch(
        r"(?:[^/@:]+@)?([^/:]+):(?!//)/*(.+)", url
    )
    host, path = found.groups() if found else ("", url.lstrip("/"))
    path = path.rstrip("/").removesuffix(".git")
    parts = [host.lower() or "localhost", *path.split("/")]
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Fault(f"cannot make a folder's name of the address {masked(url)}")
    return "/".join(parts) + ".git"


def tidy(repository: Path) -> None:
    """Remove what a killed git left behind; only for who holds the lock of a repository."""
    for stale in [*repository.rglob("*.lock"), *repository.glob("objects/**/tmp_*")]:
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)  # it was perhaps in such a folder


@dataclass(frozen=True)
class Cache:
    """A folder of bare repositories. ``reference`` is a folder of mirrors to look in first."""

    folder: Path
    git: Git
    patience: Patience
    say: Say
    reference: Path | None = None

    @contextlib.contextmanager
    def holding(
        self, url: str, commit: str, *, asked: bool = True, path: str = ""
    ) -> Iterator[Path]:
        """The bare repository of ``url`` with ``commit`` in it, nobody else's for the block.

        ``path`` is the submodule that it is for, as what is told names it.

        Raises:
            Fault: the commit could not be had; carries the reason and what mends it.
        """
        repository = self.folder / self._key(url)
        name = f"{masked(url)} at {commit[:12]}" + (f" ({path})" if path else "")
        with lockfile.held(repository.with_suffix(".lock"), self.say, name) as lock:
            tidy(repository)
            if not self._complete(repository, commit):
                self._obtain(repository, url, commit, name, asked, lock)
            else:
                self.say(f"{name}: in the cache")
            yield repository

    def drop(self, url: str) -> None:
        """Forget a repository, for instance one that turned out damaged."""
        repository = self.folder / self._key(url)
        with lockfile.held(repository.with_suffix(".lock"), self.say, masked(url)):
            shutil.rmtree(repository, ignore_errors=True)

    def _key(self, url: str) -> str:
        plain = url.rstrip("/").removesuffix(".git")
        name = re.sub("[^A-Za-z0-9]+", "-", plain.rpartition("/")[2])[:40]
        return f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:16]}.git"

    def _complete(self, repository: Path, commit: str) -> bool:
        """Whether the commit is here with every tree and file; a damaged repository is removed."""
        if not (repository / "HEAD").is_file():
            return False
        if not self.git.ok("rev-parse", "--quiet", "--verify", pin(commit), cwd=repository):
            return False
        walk = ("rev-list", "--objects", "--quiet", "--max-count=1", commit, "--")
        if self.git.ok(*walk, cwd=repository):
            return True
        self.say(f"{repository.name}: damaged, fetching it anew")
        shutil.rmtree(repository)
        return False

    def _obtain(
        self, repository: Path, url: str, commit: str, name: str, asked: bool, lock: int
    ) -> None:
        repository.mkdir(parents=True, exist_ok=True)
        # Also over what an interrupted one left; it changes nothing in a whole repository.
        self.git.out("init", "--quiet", "--bare", "--template=", ".", cwd=repository)
        if self._from_reference(repository, url, commit, name, lock):
            return
        options: tuple[str, ...] = ()

        def attempt(number: int) -> None:
            nonlocal options
            self.say(f"{name}: fetching, attempt {number}")
            try:
                self._fetch(repository, url, commit, name, asked, lock, options)
            except Fault as fault:
                if re.search(HTTP2_TROUBLE, fault.message):
                    options = ("http.version=HTTP/1.1",)
                raise

        try:
            self.patience.run(name, attempt, self.say)
        except Fault as fault:
            message = fault.message if name in fault.message else f"{name}: {fault.message}"
            raise Fault(message, hint=fault.hint) from fault
        self.say(f"{name}: fetched")

    def _fetch(
        self,
        repository: Path,
        url: str,
        commit: str,
        name: str,
        asked: bool,
        lock: int,
        settings: tuple[str, ...],
    ) -> None:
        """One attempt: the commit alone where the server allows it, else everything."""
        git = self.git
        if settings:
            git = Git({**git.environ, **_as_variables(git, settings)})
        try:
            git.fetch(
                repository,
                url,
                [f"+{commit}:{pin(commit)}"],
                "--depth=1",
                say=self.say,
                asked=asked,
                keep_open=[lock],
            )
            return
        except Refused as refused:
            self.say(f"{name}: {refused.message}; fetching all of it")
        whole = ("--unshallow",) if (repository / "shallow").exists() else ()
        git.fetch(repository, url, ALL_REFS, *whole, say=self.say, asked=asked, keep_open=[lock])
        if not git.ok("cat-file", "-e", f"{commit}^{{commit}}", cwd=repository):
            raise Fault(
                f"{name}: no branch or tag of the repository holds this commit",
                hint="if a mirror is in use it may lag behind; else check docker/pins.toml",
            )
        git.out("update-ref", pin(commit), commit, cwd=repository)

    def _from_reference(
        self, repository: Path, url: str, commit: str, name: str, lock: int
    ) -> bool:
        if self.reference is None:
            return False
        mirror = self.reference / layout(url)
        if not (mirror / "HEAD").is_file():
            self.say(f"{name}: not in the local mirror")
            return False
        try:
            self.git.fetch(
                repository,
                str(mirror),
                [f"+{commit}:{pin(commit)}"],
                "--depth=1",
                say=self.say,
                keep_open=[lock],
            )
        except Fault as fault:
            self.say(f"{name}: not from the local mirror: {fault.message}")
            return False
        self.say(f"{name}: from the local mirror")
        return True


def _as_variables(git: Git, settings: tuple[str, ...]) -> dict[str, str]:
    """Settings for one command, after those that the environment already has."""
    first = int(git.environ.get("GIT_CONFIG_COUNT") or 0)
    found = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, setting in enumerate(settings, first):
        key, _, value = setting.partition("=")
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found
