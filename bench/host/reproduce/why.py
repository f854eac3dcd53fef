"""Why two builds of one file differ: a word for the kind, what differs in it, and what mends it.

Looks into what it knows (archives, ELF files, bytecode, text) and says of the rest where it first
differs. diffoscope does more, and can be given the files that are kept.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.build import elf

_LARGEST = 2**28  # an archive or a text beyond this is compared as bytes
_CHUNK = 2**20
_AROUND = 40
_DATES = re.compile(
    rb"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d{4}\b"  # __DATE__
    rb"|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?"
    rb"|\b\d\d:\d\d:\d\d(?:\.\d+)?\b"  # __TIME__
    rb"|\b1[5-9]\d{8}(?:\.\d+)?\b"  # seconds since 1970, from 2017 to 2033
)
_MACRO = re.compile(
    rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d{4}|\b\d\d:\d\d:\d\d\b"
)


@dataclass(frozen=True)
class Why:
    """The answer for one file."""

    kind: str
    detail: str
    remedy: str


def explain(first: Path, second: Path) -> Why:
    """Why the contents of two files differ, which they do."""
    if found := _elf(first, second):
        return found
    if max(first.stat().st_size, second.stat().st_size) > _LARGEST:
        return _bytes(first.read_bytes(), second.read_bytes())
    return _of(first.read_bytes(), second.read_bytes(), first.name)


def _of(one: bytes, other: bytes, name: str) -> Why:
    looks: tuple[Callable[[bytes, bytes, str], Why | None], ...]
    looks = (_archive, _gzip, _bytecode, _text)
    for look in looks:
        if found := look(one, other, name):
            return found
    return _bytes(one, other)


def _archive(one: bytes, other: bytes, name: str) -> Why | None:
    for members in (_zip, _tar):
        try:
            pair = members(one), members(other)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError):
            continue
        before, after = pair
        if {k: v[1] for k, v in before.items()} == {k: v[1] for k, v in after.items()}:
            if list(before) != list(after):
                moved = next(a for a, b in zip(before, after, strict=True) if a != b)
                return Why(
                    "archive order",
                    f"the same members in another order, from {moved} on",
                    "sort what is packed: tar --sort=name, or a sorted list of files",
                )
            late = [key for key in before if before[key][0] != after[key][0]]
            if not late:
                return None
            return Why(
                "archive times",
                f"its members' times, owners or modes differ: {', '.join(late[:3])}",
                "give the members one date: tar --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0",
            )
        only = sorted({*before} ^ {*after})
        if only:
            return Why("archive members", f"not in both: {', '.join(only[:3])}", "")
        changed = [key for key in before if before[key][1] != after[key][1]]
        inner = _of(before[changed[0]][1], after[changed[0]][1], changed[0])
        return Why(inner.kind, f"in its member {changed[0]}: {inner.detail}", inner.remedy)
    return None


def _zip(data: bytes) -> dict[str, tuple[object, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {
            one.filename: ((one.date_time, one.external_attr), file.read(one))
            for one in file.infolist()
        }


def _tar(data: bytes) -> dict[str, tuple[object, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as file:
        found: dict[str, tuple[object, bytes]] = {}
        for one in file:
            stream = file.extractfile(one) if one.isfile() else None
            about = (int(one.mtime), one.uid, one.gid, one.uname, one.gname, one.mode)
            found[one.name] = (about, stream.read() if stream else one.linkname.encode())
        return found


def _gzip(one: bytes, other: bytes, name: str) -> Why | None:
    if not (one[:2] == other[:2] == b"\x1f\x8b"):
        return None
    try:
        before, after = gzip.decompress(one), gzip.decompress(other)
    except (OSError, EOFError, ValueError):
        return None
    if before == after:
        return Why("gzip header", "the same content, packed at another time", "gzip -n")
    inner = _of(before, after, name)
    return Why(inner.kind, f"unpacked: {inner.detail}", inner.remedy)


def _bytecode(one: bytes, other: bytes, name: str) -> Why | None:
    if not name.endswith(".pyc"):
        return None
    if one[:16] != other[:16]:
        return Why(
            "bytecode header",
            "it holds the time or the hash of its source",
            "compileall --invalidation-mode unchecked-hash",
        )
    return Why("bytecode", "the same source gave other code", "PYTHONHASHSEED=0, in one process")


def _text(one: bytes, other: bytes, name: str) -> Why | None:
    if b"\0" in one or b"\0" in other:
        return None
    before, after = one.splitlines(), other.splitlines()
    if sorted(before) == sorted(after):
        return Why("order of lines", "the same lines in another order", "sort what is written")
    number, pair = next(
        (number, pair)
        for number, pair in enumerate(_pairs(before, after), start=1)
        if pair[0] != pair[1]
    )
    said = f"line {number}: {_shown(pair[0])}, then {_shown(pair[1])}"
    if _DATES.sub(b"", one) == _DATES.sub(b"", other):
        return _dated(said)
    return Why("text", said, "")


def _pairs(one: list[bytes], other: list[bytes]) -> list[tuple[bytes, bytes]]:
    count = max(len(one), len(other))
    return [
        (one[n] if n < len(one) else b"", other[n] if n < len(other) else b"") for n in range(count)
    ]


def _dated(said: str) -> Why:
    return Why("a date", said, "write no time, or that of SOURCE_DATE_EPOCH")


def _elf(first: Path, second: Path) -> Why | None:
    try:
        one, other = elf.sections(first), elf.sections(second)
    except elf.NotElf:
        return None
    changed = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    # The build id is a checksum of the others.
    telling = [name for name in changed if name != ".note.gnu.build-id"]
    listed = ", ".join(telling[:6]) or ", ".join(changed) or "none"
    for name in telling:
        if name.startswith(".debug"):
            continue
        before, after = ({*_MACRO.findall(side.get(name, b""))} for side in (one, other))
        if before != after:
            pair = [sorted(side) for side in (before - after, after - before)]
            said = f"{name}: {_joined(pair[0])}, then {_joined(pair[1])}"
            return Why(
                "__DATE__ or __TIME__",
                said,
                "compile with SOURCE_DATE_EPOCH set, or without these macros",
            )
    if telling and all(name.startswith(".debug") for name in telling):
        return Why(
            "debug information", f"only {listed}", "-ffile-prefix-map; one folder to build in"
        )
    return Why(
        "machine code", f"sections: {listed}", "-frandom-seed; the objects' order at the link"
    )


def _joined(words: list[bytes]) -> str:
    return " ".join(map(_shown, words[:3])) or "nothing"


def _bytes(one: bytes, other: bytes) -> Why:
    at = _first(one, other)
    around = slice(max(0, at - _AROUND), at + _AROUND)
    said = f"from byte {at:,} on"
    pair = _DATES.findall(one[around]), _DATES.findall(other[around])
    if pair[0] != pair[1] and all(pair):
        return _dated(f"{said}: {_joined(pair[0])}, then {_joined(pair[1])}")
    return Why("content", said, "diffoscope says more of the two files")


def _first(one: bytes, other: bytes) -> int:
    """Where two unlike contents first differ."""
    length = min(len(one), len(other))
    for at in range(0, length, _CHUNK):
        if one[at : at + _CHUNK] != other[at : at + _CHUNK]:
            pairs = zip(one[at : at + _CHUNK], other[at : at + _CHUNK], strict=False)
            return at + next((n for n, (a, b) in enumerate(pairs) if a != b), 0)
    return length


def _shown(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "replace"))
