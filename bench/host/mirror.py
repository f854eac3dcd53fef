"""Local mirrors of the sources' repositories: the work of `invoke mirror`.

A mirror is bare, at ``FOLDER/github.com/apache/tvm.git``: with ``--mirror-folder FOLDER`` a build
gets the folder as a context and looks there first, and any git server can serve it. It has all
branches and tags, and every commit that the sources need, whether a branch leads to it or not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build.fetch import lockfile
from bench.build.fetch.fault import Fault, masked
from bench.build.fetch.git import Git
from bench.build.fetch.gitcache import ALL_REFS, layout, pin, tidy
from bench.build.fetch.patience import Patience
from bench.build.fetch.submodules import listed
from bench.errors import JobFailed, UsageFault
from bench.host.mirrors import Mirrors

Progress = Callable[[str], None]


def default_folder(environ: Mapping[str, str]) -> Path:
    """Where mirrors are kept unless said otherwise: gpt-frontend/mirror in the user's cache."""
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "~", ".cache")
    return Path(cache).expanduser() / "gpt-frontend" / "mirror"


@dataclass(frozen=True)
class Mirrored:
    """A repository in the folder. ``state`` is ``new``, ``updated`` or ``unchanged``."""

    url: str
    path: Path
    state: str


@dataclass
class Keeper:
    """Makes and updates mirrors in ``folder``."""

    folder: Path
    git: Git
    patience: Patience
    progress: Progress

    def update(self, url: str, commits: Sequence[str] = (), *, asked: bool = True) -> Mirrored:
        """Bring one mirror up to date and see that it has ``commits``.

        Raises:
            Fault: it could not be had; what was there before is as it was.
        """
        path = self.folder / layout(url)
        if (path / "HEAD").is_file():
            tidy(path)
            before = self._refs(path)
            self._fetch(path, url, ALL_REFS, asked, "--prune")
            self._pin(path, url, commits, asked)
            return Mirrored(url, path, "unchanged" if self._refs(path) == before else "updated")
        partial = path.with_name(f"{path.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            self.git.out("init", "--quiet", "--bare", "--template=", ".", cwd=partial)
            # Served over git's older protocol, single commits are given too.
            self.git.out("config", "uploadpack.allowAnySHA1InWant", "true", cwd=partial)
            self._fetch(partial, url, ALL_REFS, asked)
            self._pin(partial, url, commits, asked)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Mirrored(url, path, "new")

    def tree(
        self, url: str, commit: str, *, asked: bool = True, done: set[str] | None = None
    ) -> Iterator[Mirrored]:
        """Mirror a commit's repository and those of all its submodules, nested ones too."""
        done = set() if done is None else done
        key = f"{layout(url)} {commit}"
        if key in done:
            return
        path = self.folder / layout(url)
        # A second commit of a repository that was updated a moment ago needs only that commit.
        again = any(item.startswith(f"{layout(url)} ") for item in done)
        if again:
            self._pin(path, url, [commit], asked)
        else:
            yield self.update(url, [commit], asked=asked)
        done.add(key)
        for inner in listed(self.git, path, commit, url):
            yield from self.tree(inner.url, inner.commit, asked=False, done=done)

    def _pin(self, path: Path, url: str, commits: Sequence[str], asked: bool) -> None:
        """See that commits are here, by a ref of their own where no branch leads to them."""
        for commit in commits:
            if not self.git.ok("cat-file", "-e", f"{commit}^{{commit}}", cwd=path):
                self._fetch(path, url, [f"+{commit}:{pin(commit)}"], asked)
            else:
                self.git.out("update-ref", pin(commit), commit, cwd=path)

    def _fetch(self, path: Path, url: str, refs: Sequence[str], asked: bool, *options: str) -> None:
        name = masked(url)

        def attempt(number: int) -> None:
            self.progress(f"{name}: fetching, attempt {number}")
            self.git.fetch(path, url, refs, *options, say=self.progress, asked=asked)

        try:
            self.patience.run(name, attempt, self.progress)
        except Fault as fault:
            message = fault.message if name in fault.message else f"{name}: {fault.message}"
            raise Fault(message, hint=fault.hint) from fault

    def _refs(self, path: Path) -> str:
        return self.git.out("for-each-ref", cwd=path)


def update(
    sources: Sequence[tuple[str, str]],
    folder: Path,
    progress: Progress,
    *,
    urls: Sequence[str] = (),
    mirrors: Mirrors | None = None,
    patience: Patience | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Mirrored]:
    """Mirror each source, a URL and a commit, with all its submodules, and further ``urls``.

    Every mirror is whole or absent: an interrupted call goes on with the repository it was at.

    Raises:
        UsageFault: the folder cannot be written, or git is missing.
        JobFailed: a repository could not be had; those before it are there.
    """
    environ = {**(os.environ if environ is None else environ)}
    if mirrors is not None:
        environ |= mirrors.git_variables
    if shutil.which("git", path=environ.get("PATH")) is None:
        raise UsageFault("git is not installed", hint="sudo apt-get install -y git")
    found: list[Mirrored] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        keeper = Keeper(folder.resolve(), Git.of(environ), patience or Patience(), progress)
        with lockfile.held(folder / ".lock", progress, str(folder)):
            done: set[str] = set()
            for url, commit in sources:
                found += keeper.tree(url, commit, done=done)
            there = {mirrored.path for mirrored in found}
            for url in urls:
                if keeper.folder / layout(url) not in there:
                    found.append(keeper.update(url))
    except OSError as error:
        raise UsageFault(f"cannot write {folder}: {error}", hint="--into DIR") from error
    except Fault as fault:
        raise JobFailed(
            f"the mirror is not complete: {fault.message}",
            hint=fault.hint or "run it again: what is finished is not fetched again",
        ) from fault
    return found
