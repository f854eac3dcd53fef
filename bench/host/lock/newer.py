"""`invoke update`: newer pins shown, with the solver's word on each, and written if asked to."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import UsageFault
from bench.host import mirrors, pins
from bench.host.console import ERR, OUT, working
from bench.host.lock import edit, proposals, write
from bench.host.lock.edit import Value
from bench.host.lock.proposals import SUBJECTS, Proposal, Ways
from bench.host.lock.verbs import ROOT, NotAsked
from bench.host.pins import Pins

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def update(
    what: str,
    mirror: Sequence[str],
    *,
    writing: bool,
    root: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Show what is newer of the subjects named, and write what fits if ``writing``.

    Raises:
        UsageFault: an unknown subject, or what fits alone does not fit together.
        NotAsked: something could not be asked.
    """
    environ = os.environ if environ is None else environ
    names = chosen(what)
    path = root / "docker" / "pins.toml"
    locks = root / "docker" / "locks"
    with working("update") as say:
        ways = Ways(pins.load(path), locks, mirrors.load(mirror, environ), environ, say)
        found = [one for name in names for one in proposals.propose(name, ways)]
    for one in found:
        show(one)
    for unasked in ways.unasked:
        ERR.print(f"not checked: {unasked.place}: {unasked.why}", markup=False, soft_wrap=True)
    good = [one for one in found if one.writable]
    if not found and not ways.unasked:
        OUT.print("nothing is newer than what is pinned", markup=False)
    if good and writing:
        _write(good, path, locks)
    elif good:
        OUT.print(f"{len(good)} can be written: --write", markup=False)
    if ways.unasked:
        raise NotAsked(
            f"not everything was asked: {len(ways.unasked)} did not answer",
            hint="their pins stay; --mirror names ways to what this machine does not reach",
        )


def chosen(what: str) -> list[str]:
    """The subjects that a user named by commas; all of them by ``all``.

    Raises:
        UsageFault: there is no such subject.
    """
    names = [word.strip() for word in what.split(",") if word.strip()]
    for name in names:
        if name not in (*SUBJECTS, "all"):
            known = ", ".join(SUBJECTS)
            raise UsageFault(f"nothing to update: {name}", hint=f"one of: {known}, or all")
    return [name for name in SUBJECTS if name in names or "all" in names]


def show(one: Proposal) -> None:
    """A proposal on the terminal."""
    word = "refused" if one.refusal else "fits, by hand" if one.by_hand else "fits"
    OUT.print(f"{one.place}: {one.old} -> {one.new}: {word}", markup=False, soft_wrap=True)
    for line in filter(None, (one.refusal, one.by_hand, *one.notes)):
        OUT.print(f"    {line}", markup=False, soft_wrap=True)


def _write(good: list[Proposal], path: Path, locks: Path) -> None:
    edits: dict[tuple[str, ...], Value] = {}
    for one in good:
        edits |= one.edits
    text = edit.edited(path.read_text(encoding="utf-8"), edits)
    changed = Pins.model_validate(tomllib.loads(text))
    refusal, _ = proposals.problems(changed, changed.profiles)
    if refusal:
        raise UsageFault(
            f"each of these fits, and together they do not: {refusal}",
            hint="write them one subject at a time: invoke update python --write, then the next",
        )
    contents = {}
    asked = locks / "requirements.in"
    wanted = asked.read_text(encoding="utf-8")
    for one in good:
        for old, new in one.lists.items():
            wanted = re.sub(rf"^{re.escape(old)}(?=\s|$)", new, wanted, flags=re.MULTILINE)
    if wanted != asked.read_text(encoding="utf-8"):
        contents[asked] = wanted
    contents[path] = text
    write.together(contents)
    OUT.print(
        f"written: {', '.join(one.place for one in good)}; now the locks: invoke lock",
        markup=False,
        soft_wrap=True,
    )
