"""What an ELF file says of itself: its identity, what it needs, how it was compiled.

Pure Python, so that no binutils are needed where it runs. Reads 64-bit little-endian files
(x86-64 and AArch64) through their section headers, which no linker leaves out of a shared library.
Source of the layouts: the System V gABI, and the GNU note of type 3 (``ld --build-id``).
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SHT_NOBITS = 8
_SHF_COMPRESSED = 0x800
_SHT_NOTE = 7
_NT_GNU_BUILD_ID = 3
_DT_NEEDED, _DT_SONAME = 1, 14
_SHN_UNDEF = 0


class NotElf(ValueError):
    """The file is no 64-bit little-endian ELF file, or is cut short."""


@dataclass(frozen=True)
class Section:
    """One row of the section header table; ``offset`` and ``size`` in bytes of the file."""

    name: str
    kind: int
    flags: int
    offset: int
    size: int


@dataclass(frozen=True)
class Summary:
    """What is asked of a library."""

    build_id: str | None
    soname: str | None
    needed: tuple[str, ...]
    undefined: tuple[str, ...]
    has_debug_info: bool


def read(path: Path) -> Summary:
    """All but the compilers' words: quick, however large the file is.

    Raises:
        NotElf: it is no such file.
        OSError: it cannot be read.
    """
    with _mapped(path) as data:
        return _summary(data)


def producers(path: Path) -> tuple[str, ...]:
    """What GCC wrote of itself and its options into the debug information, each once.

    Reads all the strings there, of which TVM in Debug has many megabytes. Raises as ``read``.
    """
    with _mapped(path) as data:
        return tuple(_producers(data, {section.name: section for section in _sections(data)}))


def sections(path: Path) -> dict[str, bytes]:
    """The content of each section that the file has, by name. Raises as ``read``."""
    with _mapped(path) as data:
        return {
            one.name: data[one.offset : one.offset + one.size]
            for one in _sections(data)
            if one.kind != _SHT_NOBITS and one.name
        }


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise NotElf(f"{path} is empty") from error
        with data:
            if data[:6] != b"\x7fELF\x02\x01":
                raise NotElf(f"{path} is no 64-bit little-endian ELF file")
            try:
                yield data
            except (struct.error, IndexError, OverflowError) as error:
                raise NotElf(f"{path} is cut short or damaged") from error


def build_id(path: Path) -> str:
    """The GNU build id in hex, "" where the linker wrote none. Raises as ``read``."""
    return read(path).build_id or ""


def _summary(data: mmap.mmap) -> Summary:
    sections = _sections(data)
    named = {section.name: section for section in sections}
    needed, soname = _dynamic(data, named)
    debug = named.get(".debug_info")
    return Summary(
        build_id=_build_id(data, sections),
        soname=soname,
        needed=tuple(needed),
        undefined=tuple(_undefined(data, named)),
        # A stripped file's separate debug file has the section too, but nothing in it.
        has_debug_info=debug is not None and debug.size > 0 and debug.kind != _SHT_NOBITS,
    )


def _sections(data: mmap.mmap) -> list[Section]:
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names_at = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    if not rows:
        return []
    names = rows[names_at][4]
    return [
        Section(_text(data, names + name), kind, flags, offset, length)
        for name, kind, flags, _, offset, length in rows
    ]


def _text(data: mmap.mmap, at: int) -> str:
    end = data.find(b"\0", at)
    if end < 0:
        raise IndexError(at)
    return data[at:end].decode("utf-8", "replace")


def _dynamic(data: mmap.mmap, named: dict[str, Section]) -> tuple[list[str], str | None]:
    """(names of the libraries needed, own name) of the dynamic section."""
    if ".dynamic" not in named or ".dynstr" not in named:
        return [], None
    section, strings = named[".dynamic"], named[".dynstr"].offset
    needed, soname = [], None
    for at in range(section.offset, section.offset + section.size, 16):
        tag, value = struct.unpack_from("<qQ", data, at)
        if tag == 0:
            break
        if tag == _DT_NEEDED:
            needed.append(_text(data, strings + value))
        elif tag == _DT_SONAME:
            soname = _text(data, strings + value)
    return needed, soname


def _undefined(data: mmap.mmap, named: dict[str, Section]) -> Iterator[str]:
    """The names of dynamic symbols that some other library must bring."""
    if ".dynsym" not in named or ".dynstr" not in named:
        return
    section, strings = named[".dynsym"], named[".dynstr"].offset
    for at in range(section.offset, section.offset + section.size, 24):
        name, _, _, index = struct.unpack_from("<IBBH", data, at)
        if index == _SHN_UNDEF and name:
            yield _text(data, strings + name)


def _build_id(data: mmap.mmap, sections: list[Section]) -> str | None:
    """Notes are (name size, content size, type), name, content, both padded to 4 bytes."""
    for section in sections:
        if section.kind != _SHT_NOTE:
            continue
        at, end = section.offset, section.offset + section.size
        while at + 12 <= end:
            name_size, size, kind = struct.unpack_from("<III", data, at)
            content = at + 12 + (name_size + 3 & ~3)
            if kind == _NT_GNU_BUILD_ID and data[at + 12 : at + 16] == b"GNU\0":
                return data[content : content + size].hex()
            at = content + (size + 3 & ~3)
    return None


def _producers(data: mmap.mmap, named: dict[str, Section]) -> Iterator[str]:
    section = named.get(".debug_str")
    if section is None or section.flags & _SHF_COMPRESSED or section.kind == _SHT_NOBITS:
        return
    seen = set()
    window = re.compile(rb"GNU C\+\+[^\0]*")
    for match in window.finditer(data, section.offset, section.offset + section.size):
        text = match.group().decode("utf-8", "replace")
        if text not in seen:
            seen.add(text)
            yield text
