"""What lies at an address now: its sha256, without keeping the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from bench.host import web
from bench.host.lock.part import Change, Part, Unasked
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins
from bench.host.web import CannotAsk

CHUNK = 2**20
# What a new entry has before `invoke lock` has seen its file.
UNKNOWN = "0" * 64

Say = Callable[[str], None]


def resolve(pins: Pins, mirrors: Mirrors, environ: Mapping[str, str], say: Say) -> Part:
    """Every archive and text of the pins, read to its end: some hundred MB for LLVM."""
    part = Part("archives")
    entries = [(("llvm", name), one.url, one.sha256) for name, one in pins.llvm.items()]
    entries += [(("texts", name), one.url, one.sha256) for name, one in pins.texts.items()]
    for key, url, locked in entries:
        place = ".".join((*key[:-1], f'"{key[-1]}"' if "." in key[-1] else key[-1], "sha256"))
        say(url)
        try:
            found = sum_at(mirrors.rewrite(url), environ, say)
        except CannotAsk as why:
            part.unasked.append(Unasked(place, str(why)))
            continue
        if found == locked:
            part.same.append(place)
            continue
        if locked != UNKNOWN:
            # Not written: a release that changes is an accident or an attack.
            part.drift.append(
                f"{place}: {url} has the sha256 {found}, locked is {locked}. A release does not "
                "change: compare with its publisher's checksum before you take it"
            )
            continue
        meaning = f"the first checksum of {url}: compare it with its publisher's"
        part.changes.append(Change(place, locked, found, meaning))
        place_in_pins = (*key, "sha256")
        part.edits[place_in_pins] = found
    return part


def sum_at(url: str, environ: Mapping[str, str], say: Say) -> str:
    """The sha256 of a file on a server, in hexadecimal.

    Raises:
        CannotAsk: it is not there, or the connection ended before the file did.
    """
    total, done = hashlib.sha256(), 0
    with web.opened(url, environ) as answer:
        length = answer.headers.get("Content-Length")
        while block := answer.read(CHUNK):
            total.update(block)
            done += len(block)
            say(f"{url.rpartition('/')[2]}: {done / 1e6:.0f} MB")
    if length and done < int(length):
        raise CannotAsk(f"{url}: the connection ended after {done} of {length} bytes")
    return total.hexdigest()
