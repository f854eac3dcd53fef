"""Which TVM library this process runs on."""

from __future__ import annotations

import functools
import hashlib
import struct
from pathlib import Path

from bench.job.compile import api

_COMPILER_NAMES = ("libtvm_compiler.so", "libtvm.so")  # 0.27's name, then that of v0.23
_NT_GNU_BUILD_ID = 3
_PT_NOTE = 4


def tvm_library_path() -> Path:
    """The TVM compiler library that is mapped into this process.

    Raises:
        RuntimeError: none is, so that whatever TVM this is, it cannot compile.
    """
    mapped: dict[str, Path] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            path = Path(fields[5])
            mapped.setdefault(path.name, path)
    for name in _COMPILER_NAMES:
        if name in mapped:
            return mapped[name]
    raise RuntimeError("no TVM compiler library is mapped into this process")


@functools.cache
def tvm_build_id() -> str:
    """TVM's version and the identity of the compiler library that is loaded.

    The identity is the ELF build id that the linker wrote, or, where it wrote none, the
    sha256 of the file (taken once a process).
    """
    path = tvm_library_path()
    build_id = _elf_build_id(path)
    if build_id:
        return f"{api.VERSION}+build-id.{build_id}"
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return f"{api.VERSION}+sha256.{digest.hexdigest()}"


def _elf_build_id(path: Path) -> str | None:
    """The GNU build id of a 64-bit little-endian ELF file, in hex; None if it has none."""
    with path.open("rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            return None
        table, entry_size, entries = struct.unpack_from("<Q14xHH", header, 32)
        for index in range(entries):
            file.seek(table + index * entry_size)
            kind, _, offset, _, _, size = struct.unpack("<IIQQQQ", file.read(40))
            if kind != _PT_NOTE:
                continue
            file.seek(offset)
            build_id = _find_build_id(file.read(size))
            if build_id:
                return build_id
    return None


def _find_build_id(notes: bytes) -> str | None:
    """The build id among ELF notes: (name size, content size, type), name, content, padded."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name_at = at + 12
        content_at = name_at + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + 4] == b"GNU\0":
            return notes[content_at : content_at + size].hex()
        at = content_at + (size + 3 & ~3)
    return None
