"""The profiles' bases: the digest that each tag has now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.host.lock import registry
from bench.host.lock.part import Change, Part, Unasked
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins
from bench.host.web import CannotAsk

Say = Callable[[str], None]


def resolve(pins: Pins, mirrors: Mirrors, environ: Mapping[str, str], say: Say) -> Part:
    """Every profile's base; one that several share is asked for once."""
    part = Part("base")
    answers: dict[str, str | CannotAsk] = {}
    for name, profile in pins.profiles.items():
        place = f"profiles.{name}.base"
        ref, _, locked = profile.base.partition("@")
        if ref not in answers:
            say(ref)
            try:
                answers[ref] = registry.digest(ref, mirrors, environ)
            except CannotAsk as why:
                answers[ref] = why
        found = answers[ref]
        if isinstance(found, CannotAsk):
            part.unasked.append(Unasked(place, f"{ref}: {found}"))
        elif found == locked:
            part.same.append(place)
        else:
            meaning = f"{ref} was published anew: its packages, and with them the image, change"
            part.changes.append(Change(place, locked, found, meaning))
            part.edits[("profiles", name, "base")] = f"{ref}@{found}"
    return part
