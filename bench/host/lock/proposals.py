"""Newer pins than those in pins.toml, each put to the solver before anybody is shown it.

What the solver refuses is shown with its reason. Of several newer versions the newest that fits is
proposed; above it the newest that is refused for each reason shows what holds a pin back.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bench.build.fetch.git import Git
from bench.host import toolchain
from bench.host.lock import agreement, index, registry, sources
from bench.host.lock.edit import Place
from bench.host.lock.part import Unasked
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins, Profile
from bench.host.web import CannotAsk

SUBJECTS = ("tvm", "cuda", "python", "base", "llvm")
LLVM_URL = "https://github.com/llvm/llvm-project"
TORCH_NOTE = "the hashes of its CPU builds go into docker/locks/torch-cpu-hashes.txt by hand"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Proposal:
    """A newer value of one pin. ``refusal`` is the solver's reason, "" where it fits.

    ``by_hand`` says why it is not written though it fits. ``edits`` are values of pins.toml,
    ``lists`` a requirement of docker/locks/requirements.in and what takes its place.
    """

    place: str
    old: str
    new: str
    refusal: str = ""
    by_hand: str = ""
    notes: tuple[str, ...] = ()
    edits: Mapping[Place, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)

    @property
    def writable(self) -> bool:
        """Whether ``--write`` takes it."""
        return bool(self.edits) and not self.refusal and not self.by_hand


@dataclass
class Ways:
    """How the outside is asked, and what did not answer."""

    pins: Pins
    locks: Path
    mirrors: Mirrors
    environ: Mapping[str, str]
    say: Say
    unasked: list[Unasked] = field(default_factory=list)

    @functools.cached_property
    def index(self) -> str:
        """The package index; asking pip for it takes a moment."""
        return index.address(self.mirrors, self.environ)


def propose(subject: str, ways: Ways) -> list[Proposal]:
    """What is newer of one subject."""
    makers: dict[str, Callable[[Ways], Iterator[Proposal]]] = {
        "tvm": _tvm,
        "cuda": _cuda,
        "python": _python,
        "base": _base,
        "llvm": _llvm,
    }
    return list(makers[subject](ways))


def problems(pins: Pins, names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """What the solver has against the profiles as these pins make them, and its notes."""
    refused, notes = [], []
    for name in names:
        wanted = toolchain.of_profile(pins, name)
        refused += [f"{name}: {one.what}: {one.reason}" for one in toolchain.problems(wanted)]
        notes += toolchain.notes(wanted)
    return "; ".join(dict.fromkeys(refused)), tuple(dict.fromkeys(notes))


def _best(proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    """The first that fits, and before it the newest that is refused for each reason."""
    told: set[str] = set()
    for one in proposals:
        # One reason for many releases differs in their numbers.
        reason = re.sub(r"\d+(\.\d+)*", "", one.refusal)
        if reason not in told:
            yield one
        if not one.refusal:
            return
        told.add(reason)


def _changed(pins: Pins, name: str, **values: object) -> Pins:
    profile = pins.profiles[name].model_copy(update=values)
    return pins.model_copy(update={"profiles": {**pins.profiles, name: profile}})


def _released(text: str) -> Version | None:
    try:
        version = Version(text)
    except InvalidVersion:
        return None
    return None if version.is_prerelease or version.is_devrelease else version


# --- Python packages ---


def _python(ways: Ways) -> Iterator[Proposal]:
    yield from _package(ways, "torch", "torch")
    yield from _package(ways, "cmake", "cmake")
    yield from _package(ways, "ninja", "ninja")


def _package(ways: Ways, key: str, package: str) -> Iterator[Proposal]:
    pins, place = ways.pins, f"versions.{key}"
    old = str(getattr(pins.versions, key))
    ways.say(package)
    try:
        found = index.releases(package, ways.index, ways.environ)
    except CannotAsk as why:
        ways.unasked.append(Unasked(place, str(why)))
        return

    def made() -> Iterator[Proposal]:
        for version in (one for one in found if one > Version(old)):
            new = str(version)
            versions = pins.versions.model_copy(update={key: new})
            refusal, notes = problems(pins.model_copy(update={"versions": versions}), pins.profiles)
            lists = {}
            for path, requirement in _asked_for(ways.locks, package):
                if str(requirement) == f"{package}=={old}":
                    lists = {f"{package}=={old}": f"{package}=={new}"}
                elif not requirement.specifier.contains(new):
                    refusal = refusal or f"docker/locks/{path.name} asks for {requirement}"
            if package == "torch":
                notes = (*notes, TORCH_NOTE)
            edits: dict[Place, str] = {("versions", key): new}
            yield Proposal(place, old, new, refusal, "", notes, edits, lists)

    yield from _best(made())


def _asked_for(locks: Path, package: str) -> Iterator[tuple[Path, Requirement]]:
    for path in sorted(locks.glob("*.in")):
        for requirement in agreement.wanted(path):
            if canonicalize_name(requirement.name) == package:
                yield path, requirement


# --- TVM ---


def _tvm(ways: Ways) -> Iterator[Proposal]:
    yield from _package(ways, "tvm", "apache-tvm")
    git = Git.of({**ways.environ, **ways.mirrors.git_variables})
    pins = ways.pins
    answers: dict[str, dict[str, str] | CannotAsk] = {}
    for name, profile in pins.profiles.items():
        if not profile.from_source:
            continue
        place, url = f"profiles.{name}.tvm", pins.sources[profile.tvm].url
        if url not in answers:
            ways.say(url)
            try:
                answers[url] = sources.releases(url, git)
            except CannotAsk as why:
                answers[url] = why
        found = answers[url]
        if isinstance(found, CannotAsk):
            ways.unasked.append(Unasked(place, str(found)))
            continue
        yield from _best(_source(pins, name, profile, found))


def _source(pins: Pins, name: str, profile: Profile, tags: Mapping[str, str]) -> Iterator[Proposal]:
    newer = sorted(
        (
            version
            for tag in tags
            if (version := _released(tag.removeprefix("v"))) and version > Version(profile.tvm)
        ),
        reverse=True,
    )
    for version in newer:
        new = str(version)
        refusal, notes = problems(_changed(pins, name, tvm=new), [name])
        by_hand = ""
        if new not in pins.sources:
            by_hand = (
                f'it needs [sources."{new}"] (commit {tags.get(f"v{new}", "?")}) with its date, '
                f"gitlinks and tvm-ffi, and docker/locks/tvm-{new}.in: docs/locking.md"
            )
        edits: dict[Place, str] = {("profiles", name, "tvm"): new}
        yield Proposal(f"profiles.{name}.tvm", profile.tvm, new, refusal, by_hand, notes, edits)


# --- bases ---


def _base(ways: Ways) -> Iterator[Proposal]:
    answers: dict[str, str | CannotAsk] = {}
    for name, profile in ways.pins.profiles.items():
        place, (ref, _, old) = f"profiles.{name}.base", profile.base.partition("@")
        if ref not in answers:
            ways.say(ref)
            try:
                answers[ref] = registry.digest(ref, ways.mirrors, ways.environ)
            except CannotAsk as why:
                answers[ref] = why
        found = answers[ref]
        if isinstance(found, CannotAsk):
            ways.unasked.append(Unasked(place, f"{ref}: {found}"))
        elif found != old:
            edits: dict[Place, str] = {("profiles", name, "base"): f"{ref}@{found}"}
            yield Proposal(place, profile.base, f"{ref}@{found}", edits=edits)


def _cuda(ways: Ways) -> Iterator[Proposal]:
    tags: dict[str, list[str] | CannotAsk] = {}
    for name, profile in ways.pins.profiles.items():
        ref = profile.base.partition("@")[0]
        shape = re.fullmatch(r"(.*nvidia/cuda):(\d+\.\d+\.\d+)(-devel-[a-z]+[\d.]+)", ref)
        if shape is None:
            continue
        repository, old, kind = shape.groups()
        if repository not in tags:
            ways.say(repository)
            try:
                tags[repository] = registry.tags(ref, ways.mirrors, ways.environ)
            except CannotAsk as why:
                tags[repository] = why
        found = tags[repository]
        if isinstance(found, CannotAsk):
            ways.unasked.append(Unasked(f"profiles.{name}.cuda", f"{repository}: {found}"))
            continue
        names = [
            match[1]
            for tag in found
            if (match := re.fullmatch(rf"(\d+\.\d+\.\d+){re.escape(kind)}", tag))
        ]
        newer = sorted((one for one in map(Version, names) if one > Version(old)), reverse=True)
        yield from _best(_toolkits(ways, name, repository, kind, newer))


def _toolkits(
    ways: Ways, name: str, repository: str, kind: str, newer: list[Version]
) -> Iterator[Proposal]:
    profile = ways.pins.profiles[name]
    place = f"profiles.{name}.cuda"
    for version in newer:
        new, ref = str(version), f"{repository}:{version}{kind}"
        changed = _changed(ways.pins, name, cuda=new, base=f"{ref}@sha256:{'0' * 64}")
        refusal, notes = problems(changed, [name])
        old = str(profile.cuda)
        if refusal:
            yield Proposal(place, old, new, refusal, "", notes)
            continue
        try:
            digest = registry.digest(ref, ways.mirrors, ways.environ)
        except CannotAsk as why:
            ways.unasked.append(Unasked(place, f"{ref}: {why}"))
            continue
        edits: dict[Place, str] = {
            ("profiles", name, "cuda"): new,
            ("profiles", name, "base"): f"{ref}@{digest}",
        }
        yield Proposal(place, old, new, "", "", notes, edits)


# --- LLVM ---


def _llvm(ways: Ways) -> Iterator[Proposal]:
    newest = toolchain.load_tables().tvm[-1].llvm_newest
    for name, profile in ways.pins.profiles.items():
        if not profile.from_source or profile.llvm is None:
            continue
        if packaged := re.fullmatch(r"apt:(\d+)", profile.llvm):
            versions = range(int(newest.partition(".")[0]), int(packaged[1]), -1)
            yield from _best(_packaged(ways.pins, name, profile.llvm, versions))
        else:
            yield from _archives(ways, name, profile.llvm)


def _packaged(pins: Pins, name: str, old: str, versions: Iterable[int]) -> Iterator[Proposal]:
    for version in versions:
        new = f"apt:{version}"
        refusal, notes = problems(_changed(pins, name, llvm=new), [name])
        edits: dict[Place, str] = {("profiles", name, "llvm"): new}
        yield Proposal(f"profiles.{name}.llvm", old, new, refusal, "", notes, edits)


def _archives(ways: Ways, name: str, old: str) -> Iterator[Proposal]:
    place = f"profiles.{name}.llvm"
    git = Git.of({**ways.environ, **ways.mirrors.git_variables})
    ways.say(LLVM_URL)
    try:
        tags = sources.releases(LLVM_URL, git, "llvmorg-*")
    except CannotAsk as why:
        ways.unasked.append(Unasked(place, str(why)))
        return
    found = (_released(tag.removeprefix("llvmorg-")) for tag in tags)
    newer = sorted((one for one in found if one and one > Version(old)), reverse=True)

    def made() -> Iterator[Proposal]:
        for version in newer:
            refusal, notes = problems(_changed(ways.pins, name, llvm=str(version)), [name])
            by_hand = "an archive needs its address, folder and checksum in [llvm]: docs/locking.md"
            yield Proposal(place, old, str(version), refusal, by_hand, notes)

    yield from _best(made())
