"""The submodules of a commit: where they are, what they are called, which commit they are at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.build.fetch.fault import Fault, masked
from bench.build.fetch.git import Git

GITLINK = "160000"


@dataclass(frozen=True)
class Submodule:
    """One gitlink with its entry in .gitmodules. ``path`` is relative to its parent's tree."""

    name: str
    path: str
    url: str
    commit: str


def gitlinks(git: Git, repository: Path, commit: str = "HEAD") -> dict[str, str]:
    """Path to commit of each submodule that a commit's tree records; not those within them."""
    found = {}
    for entry in git.out("ls-tree", "-r", "-z", commit, cwd=repository).split("\0"):
        if entry.startswith(GITLINK):
            about, _, path = entry.partition("\t")
            found[path] = about.split()[2]
    return found


def nested_gitlinks(git: Git, tree: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and commit of every gitlink of a work tree, with those of the submodules in it."""
    for path, commit in gitlinks(git, tree).items():
        yield f"{prefix}{path}", commit
        if (tree / path / ".git").exists():
            yield from nested_gitlinks(git, tree / path, f"{prefix}{path}/")


def listed(git: Git, repository: Path, commit: str, base_url: str) -> list[Submodule]:
    """The submodules of a commit in a bare repository, sorted by name.

    Raises:
        Fault: a gitlink without an entry in .gitmodules, or a name or URL that is not safe.
    """
    links = gitlinks(git, repository, commit)
    if not links:
        return []
    entries = _entries(git, repository, commit)
    paths = {fields["path"]: name for name, fields in entries.items() if "path" in fields}
    found = []
    for path, target in links.items():
        name = paths.get(path)
        url = entries[name].get("url") if name is not None else None
        if name is None or url is None:
            raise Fault(
                f"{path}: the tree of {masked(base_url)} records the commit {target}, but its "
                ".gitmodules does not say where it comes from",
                hint="another commit of that repository may be whole: docker/pins.toml",
            )
        if not _safe(name) or not _safe(path) or url.startswith("-"):
            raise Fault(f"{masked(base_url)}: unsafe entry {name!r} in .gitmodules: {url}")
        found.append(Submodule(name, path, absolute_url(base_url, url), target))
    return sorted(found, key=lambda submodule: submodule.name)


def absolute_url(base: str, url: str) -> str:
    """A submodule's URL seen from its parent's, as git does it (gitsubmodules(7), gitmodules(5)).

    Raises:
        Fault: more ``../`` than the parent's URL has parts.
    """
    if not url.startswith(("./", "../")):
        return url
    parent, separator, rest = base.removesuffix("/"), "/", url
    while True:
        if rest.startswith("./"):
            rest = rest[2:]
        elif rest.startswith("../"):
            rest = rest[3:]
            cut = max(parent.rfind("/"), parent.rfind(":"))
            if cut < 0:
                raise Fault(f"the submodule URL {url} leads out of {masked(base)}")
            if parent.rfind("/") < 0:
                separator = ":"
            parent = parent[: parent.rfind("/")] if "/" in parent else parent[:cut]
        else:
            return f"{parent}{separator}{rest}".removesuffix("/")


def _entries(git: Git, repository: Path, commit: str) -> dict[str, dict[str, str]]:
    listing = ("config", "--blob", f"{commit}:.gitmodules", "-z", "--get-regexp", r"^submodule\.")
    try:
        text = git.out(*listing, cwd=repository)
    except Fault:
        return {}
    entries: dict[str, dict[str, str]] = {}
    for item in text.split("\0"):
        key, _, value = item.partition("\n")
        if matched := re.fullmatch(r"submodule\.(.+)\.(path|url)", key, re.DOTALL):
            entries.setdefault(matched[1], {})[matched[2]] = value
    return entries


def _safe(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and not any(p in ("", ".", "..") or p.lower() == ".git" for p in parts)
