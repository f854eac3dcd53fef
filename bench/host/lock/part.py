"""What resolving one part of the lock gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Change:
    """A locked value that is another one now. ``meaning`` is a sentence for who decides."""

    place: str
    old: str
    new: str
    meaning: str


@dataclass(frozen=True)
class Unasked:
    """What could not be asked, so that its old value stays; and why, in one line."""

    place: str
    why: str


@dataclass
class Part:
    """One part of the lock: base, sources, archives, weights, apt or python.

    ``same`` are the places whose value was asked for and is what is locked. ``drift`` is what does
    not hold and no new value mends by itself. ``edits`` are new values of docker/pins.toml by their
    place, None where the key goes; ``files`` new contents of whole files.
    """

    name: str
    same: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    unasked: list[Unasked] = field(default_factory=list)
    edits: dict[tuple[str, ...], str | int | list[str] | None] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
