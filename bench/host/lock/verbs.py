"""`invoke lock`: what it asks, what it says, what it writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, JobFailed, UsageFault
from bench.host import mirror as mirrors_of
from bench.host import mirrors, pins
from bench.host.console import ERR, OUT, Update, working
from bench.host.engine import endpoint
from bench.host.lock import archives, base, edit, packages, python, sources, weights, write
from bench.host.lock.part import Part
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("base", "sources", "archives", "weights", "apt", "python")
OFFLINE = ("python",)


class NotAsked(JobFailed):
    """Nothing that was asked for has drifted, but not everything could be asked."""

    exit_code = 3


def lock(
    only: str | None,
    mirror: Sequence[str],
    *,
    check: bool,
    offline: bool,
    root: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Resolve the parts of the lock; say what is otherwise; write it, unless it is only checked.

    Raises:
        UsageFault: an unknown part, or a file that cannot be read or written.
        JobFailed: it was checked and something has drifted, or a drift cannot be written.
        NotAsked: something could not be asked.
    """
    environ = os.environ if environ is None else environ
    names = chosen(only, offline)
    if offline and not check:
        raise UsageFault("--offline resolves nothing", hint="invoke lock --check --offline")
    path = root / "docker" / "pins.toml"
    pinned = pins.load(path)
    ways = mirrors.load(mirror, environ)
    parts = []
    with working("lock") as say:
        for name in names:
            say(name)
            parts.append(resolve(name, pinned, root, ways, environ, say, offline=offline))
    for part in parts:
        show(part)
    contents = {file: text for part in parts for file, text in part.files.items()}
    edits = {place: value for part in parts for place, value in part.edits.items()}
    if edits:
        text = edit.edited(path.read_text(encoding="utf-8"), edits)
        # Last: a lock that was written in part would show, since the pins say what it should be.
        contents[path] = text
    drifted = [sentence for part in parts for sentence in part.drift]
    changes = sum(len(part.changes) for part in parts)
    if contents and not check:
        write.together(contents)
        named = ", ".join(str(one.relative_to(root)) for one in contents)
        OUT.print(f"written: {named}", markup=False, soft_wrap=True)
    if drifted or (check and changes):
        count = f"{len(drifted) + (changes if check else 0)} drifted"
        raise JobFailed(
            f"the lock does not hold: {count}",
            hint="each is named above; invoke lock resolves anew what can be: docs/locking.md",
        )
    unasked = [one for part in parts for one in part.unasked]
    if unasked:
        raise NotAsked(
            f"not everything was checked: {len(unasked)} could not be asked",
            hint="the old values stay; --mirror names ways to what this machine does not reach",
        )


def chosen(only: str | None, offline: bool = False) -> list[str]:
    """The parts that a user named by commas; all where none is named.

    Raises:
        UsageFault: there is no such part.
    """
    names = [word.strip() for word in (only or "").split(",") if word.strip()]
    for name in names:
        if name not in PARTS:
            raise UsageFault(f"no part of the lock: {name}", hint=f"one of: {', '.join(PARTS)}")
        if offline and name not in OFFLINE:
            raise UsageFault(
                f"the part {name} cannot be checked without a network",
                hint="leave --only or --offline out",
            )
    names = names or list(OFFLINE if offline else PARTS)
    return [name for name in PARTS if name in names]


def resolve(
    name: str,
    pinned: Pins,
    root: Path,
    ways: Mirrors,
    environ: Mapping[str, str],
    say: Update,
    *,
    offline: bool,
) -> Part:
    """One part of the lock, resolved anew."""
    if name == "base":
        return base.resolve(pinned, ways, environ, say)
    if name == "sources":
        folder = mirrors_of.default_folder(environ)
        reference = folder if folder.is_dir() else None
        return sources.resolve(pinned, ways, environ, say, reference=reference)
    if name == "archives":
        return archives.resolve(pinned, ways, environ, say)
    if name == "weights":
        return weights.resolve(pinned, environ, say)
    if name == "apt":
        client, why = _engine(environ)
        with endpoint.engine_errors():
            return packages.resolve(pinned, root / "docker" / "locks", client, why)
    return python.resolve(pinned, root, ways, environ, offline=offline)


def show(part: Part) -> None:
    """What was found of one part: the changes on standard output, the rest beside it."""
    for change in part.changes:
        OUT.print(f"{change.place}", markup=False, soft_wrap=True, style="bold")
        OUT.print(f"  - {change.old}", markup=False, soft_wrap=True)
        OUT.print(f"  + {change.new}", markup=False, soft_wrap=True)
        OUT.print(f"    {change.meaning}", markup=False, soft_wrap=True)
    for sentence in part.drift:
        OUT.print(f"drifted: {sentence}", markup=False, soft_wrap=True)
    for one in part.unasked:
        ERR.print(f"not checked: {one.place}: {one.why}", markup=False, soft_wrap=True)
    count = f"{len(part.same)} as locked, {len(part.changes)} otherwise"
    count += f", {len(part.drift)} drifted" if part.drift else ""
    count += f", {len(part.unasked)} not checked" if part.unasked else ""
    OUT.print(f"{part.name}: {count}", markup=False, soft_wrap=True)


def _engine(environ: Mapping[str, str]) -> tuple[DockerClient | None, str]:
    try:
        return endpoint.connect(endpoint.find_endpoint(environ), environ), ""
    except BenchError as error:
        return None, error.message
