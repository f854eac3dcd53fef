"""TVM's sources: a release's commit by its tag, and a commit's gitlinks, nested ones too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.build.fetch.fault import Fault, masked
from bench.build.fetch.git import Git, reason
from bench.build.fetch.gitcache import Cache
from bench.build.fetch.patience import Patience
from bench.build.fetch.submodules import listed
from bench.host.lock.part import Change, Part, Unasked
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins, Source
from bench.host.web import CannotAsk

TIMEOUT_S = 120

Say = Callable[[str], None]


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the repositories are kept from one call to the next: gpt-frontend/lock in the cache."""
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "~", ".cache")
    return Path(cache).expanduser() / "gpt-frontend" / "lock"


def resolve(
    pins: Pins,
    mirrors: Mirrors,
    environ: Mapping[str, str],
    say: Say,
    *,
    reference: Path | None = None,
    patience: Patience | None = None,
) -> Part:
    """Every entry of the pins' [sources]. ``reference`` is a folder that `invoke mirror` made."""
    part = Part("sources")
    git = Git.of({**environ, **mirrors.git_variables})
    tries = patience or Patience(attempts=2)
    cache = Cache(cache_folder(environ), git, tries, say, reference)
    for version, source in pins.sources.items():
        _release(part, version, source, git, say)
        _gitlinks(part, version, source, cache)
    return part


def _release(part: Part, version: str, source: Source, git: Git, say: Say) -> None:
    place = f'sources."{version}".commit'
    say(f"{source.url}: v{version}")
    try:
        commits = releases(source.url, git, f"v{version}")
    except CannotAsk as why:
        part.unasked.append(Unasked(place, str(why)))
        return
    found = commits.get(f"v{version}")
    if found is None:
        part.unasked.append(Unasked(place, f"{masked(source.url)} has no tag v{version}"))
    elif found == source.commit:
        part.same.append(place)
    else:
        # Not written: a release that moves is an accident or an attack, and a person's to look at.
        part.drift.append(
            f"{place}: the tag v{version} of {masked(source.url)} is now {found}, locked is "
            f"{source.commit}. A release's tag does not move: find out why before you change it"
        )


def releases(url: str, git: Git, pattern: str = "v*") -> dict[str, str]:
    """Tag to commit for the tags that match a pattern.

    Raises:
        CannotAsk: the repository does not answer.
    """
    # The peeled line of an annotated tag matches the pattern only with a star behind it.
    command = ["git", "ls-remote", "--tags", "--", url, pattern, f"{pattern}^{{}}"]
    try:
        done = subprocess.run(
            command, env=dict(git.environ), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotAsk(f"git cannot ask {masked(url)}: {type(error).__name__}") from error
    if done.returncode != 0:
        raise CannotAsk(f"git cannot ask {masked(url)}: {reason(done.stderr)}")
    found: dict[str, str] = {}
    # An annotated tag is an object of its own; what it names stands under ^{}, behind it.
    for line in done.stdout.splitlines():
        commit, _, name = line.partition("\t")
        found[name.removeprefix("refs/tags/").removesuffix("^{}")] = commit
    return found


def _gitlinks(part: Part, version: str, source: Source, cache: Cache) -> None:
    found: dict[str, str] = {}
    unread: list[Unasked] = []
    try:
        walk(cache, source.url, source.commit, "", found, unread)
    except CannotAsk as why:
        part.unasked.append(Unasked(f'sources."{version}".gitlinks', str(why)))
        return
    _date(part, version, source, cache)
    # Below what could not be read, the old list stays.
    kept = {
        path: commit
        for path, commit in source.gitlinks.items()
        if any(path.startswith(f"{one.place}/") for one in unread)
    }
    found |= kept
    table = ("sources", version, "gitlinks")
    for path in sorted({*found, *source.gitlinks}):
        old, new = source.gitlinks.get(path), found.get(path)
        place = f'sources."{version}".gitlinks."{path}"'
        if old == new:
            part.same.append(place)
            continue
        what = "is recorded by the commit" if new else "is not in the commit's tree"
        meaning = f"the submodule {path} {what} {source.commit[:12]}: the list was incomplete"
        part.changes.append(Change(place, old or "(not listed)", new or "(none)", meaning))
        key = (*table, path)
        part.edits[key] = new
    by_parent = [path for path in source.read_by_parent if path not in found]
    if by_parent != list(source.read_by_parent):
        place = f'sources."{version}".read_by_parent'
        meaning = "these submodules could be read now: they have entries of their own"
        old_names, new_names = map(", ".join, (source.read_by_parent, by_parent))
        part.changes.append(Change(place, old_names, new_names or "(none)", meaning))
        part.edits[("sources", version, "read_by_parent")] = by_parent
    for one in unread:
        place = f'sources."{version}".gitlinks below {one.place}'
        part.unasked.append(Unasked(place, one.why))


def _date(part: Part, version: str, source: Source, cache: Cache) -> None:
    """The commit's date; ``walk`` has fetched it."""
    key = ("sources", version, "source_date_epoch")
    place = f'sources."{version}".source_date_epoch'
    try:
        with cache.holding(source.url, source.commit) as repository:
            told = cache.git.out("log", "-1", "--format=%ct", source.commit, cwd=repository)
    except (Fault, OSError) as fault:
        part.unasked.append(Unasked(place, masked(re.sub(r"\s+", " ", str(fault)))))
        return
    old, new = source.source_date_epoch, int(told)
    if old == new:
        part.same.append(place)
        return
    meaning = "the commit's date, which everything in an image of it has"
    part.changes.append(Change(place, str(old), str(new), meaning))
    part.edits[key] = new


def walk(
    cache: Cache,
    url: str,
    commit: str,
    prefix: str,
    found: dict[str, str],
    unread: list[Unasked],
    *,
    asked: bool = True,
) -> None:
    """Add the gitlinks of a commit to ``found``, path to commit, and those of its submodules.

    A submodule whose repository cannot be had is added to ``unread``, by its path; it is in
    ``found`` itself, since its parent records it.

    Raises:
        CannotAsk: the commit itself cannot be had.
    """
    try:
        with cache.holding(url, commit, asked=asked, path=prefix.rstrip("/")) as repository:
            inner = listed(cache.git, repository, commit, url)
    except (Fault, OSError) as fault:
        raise CannotAsk(masked(re.sub(r"\s+", " ", str(fault)))) from fault
    for one in inner:
        path = f"{prefix}{one.path}"
        found[path] = one.commit
        try:
            walk(cache, one.url, one.commit, f"{path}/", found, unread, asked=False)
        except CannotAsk as why:
            unread.append(Unasked(path, str(why)))
