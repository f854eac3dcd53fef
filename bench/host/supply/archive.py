"""An image in one file, with what is known of it: written whole, believed only when verified.

A tar archive. First what the engine saves, an OCI layout; then, under ``gpt-frontend/``, the
contract's record, the bill of materials and the provenance; last a manifest with the sha256 of all
of them, and that manifest's own. The engine is given the first part and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import JobFailed, UsageFault
from bench.host import layout
from bench.record import ImageRef

OURS = "gpt-frontend/"
MANIFEST = f"{OURS}manifest.json"
SEAL = f"{OURS}manifest.sha256"  # of the manifest, as sha256sum writes it: the archive's end
CONTRACT = f"{OURS}contract.json"
SBOM = f"{OURS}sbom.cdx.json"
PROVENANCE = f"{OURS}provenance.json"
_BESIDE = (CONTRACT, SBOM, PROVENANCE)
_REQUIRED = (CONTRACT, SBOM)
_LARGEST = 2**26
_CHUNK = 2**20
GIB = 2**30

Progress = Callable[[str], None]


class Member(BaseModel):
    """One file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """What an archive says of itself. ``digests`` are all by which engines know the image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    image: ImageRef
    digests: tuple[str, ...]
    files: dict[str, Member]


@dataclass
class Read:
    """An archive that was read to its end. ``image_bytes`` is the length of the engine's part."""

    files: dict[str, Member] = field(default_factory=dict)
    small: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    image_bytes: int = 0


@dataclass(frozen=True)
class Verified:
    """An archive whose every byte is what its manifest says, and whose image is the one named."""

    manifest: Manifest
    beside: Mapping[str, bytes]
    image_bytes: int


def write(
    path: Path,
    saved: Iterable[bytes],
    image: ImageRef,
    beside: Mapping[str, bytes],
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write an archive of what the engine ``saved``, in place of an earlier one, in one step.

    Raises:
        UsageFault: it cannot be written, or ``image`` is not what was saved.
        JobFailed: the engine saves in a form that is no OCI layout.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            made = _written(file, saved, image, beside, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UsageFault(
            f"cannot write {path}: {error.strerror or error}",
            hint="name a file where there is room for the whole image: docker images",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return made


def claimed(path: Path) -> Manifest:
    """What an archive says of itself, before any of it has been verified.

    Raises:
        UsageFault: it is no archive of ours.
    """
    with _opened(path) as file, _damage(path), tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.name == MANIFEST and member.isfile() and member.size <= _LARGEST:
                stream = tar.extractfile(member)
                assert stream is not None
                return _manifest(path, stream.read())
    raise _refused(path, [f"{MANIFEST} is missing: it was cut short, or is no archive of ours"])


def verified(path: Path, progress: Progress = lambda _: None) -> Verified:
    """Read an archive to its end and hold it to its manifest, and its image to its digests.

    Raises:
        UsageFault: it is damaged, was tampered with, or is no archive of ours; says what differs.
    """
    with _opened(path) as file, _damage(path):
        read = _read(file, progress)
    for name in (MANIFEST, SEAL):
        if name not in read.small:
            problem = f"{name} is missing: it was cut short, or is no archive of ours"
            raise _refused(path, [*read.problems, problem])
    if read.small[SEAL] != _seal(read.small[MANIFEST]):
        raise _refused(path, [*read.problems, f"{MANIFEST} is not of the sha256 in {SEAL}"])
    manifest = _manifest(path, read.small[MANIFEST])
    problems = [*read.problems, *_differences(manifest, read)]
    try:
        known = layout.digests(read.small, {name: one.sha256 for name, one in read.files.items()})
        # An engine gives an image whatever names stand here, and takes them from other images.
        strange = layout.names(read.small) - {manifest.image.tag}
    except layout.Broken as error:
        raise _refused(path, [*problems, str(error)]) from error
    if set(manifest.digests) != known or manifest.image.id not in known:
        problems.append(f"the image in it is {', '.join(sorted(known))}, not the one it names")
    problems += [f"it would call its image {name} too" for name in sorted(strange)]
    if problems:
        raise _refused(path, problems)
    beside = {name: read.small[name] for name in _BESIDE if name in read.small}
    return Verified(manifest, beside, read.image_bytes)


def engine_part(path: Path, length: int, progress: Progress = lambda _: None) -> Iterator[bytes]:
    """The engine's part of an archive, as an archive of its own.

    Raises:
        UsageFault: it cannot be read.
    """
    with _opened(path) as file:
        left = length
        while left > 0:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise _refused(path, ["it became shorter while it was read"])
            left -= len(chunk)
            progress(f"{(length - left) / GIB:.1f} of {length / GIB:.1f} GiB")
            yield chunk
        yield tarfile.NUL * (2 * tarfile.BLOCKSIZE)


def _written(
    file: IO[bytes],
    saved: Iterable[bytes],
    image: ImageRef,
    beside: Mapping[str, bytes],
    progress: Progress,
) -> Manifest:
    files: dict[str, Member] = {}
    small: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as out:
        with tarfile.open(fileobj=Stream(saved), mode="r|") as given:
            for member in given:
                if member.isdir() and member.name.rstrip("/") in layout.FOLDERS:
                    continue
                if not (member.isfile() and layout.MEMBER.fullmatch(member.name)):
                    raise JobFailed(
                        f"this engine saves no OCI layout: there is {member.name} in it",
                        hint="docker version: engines do so since 25.0; docker/engine.sh has one",
                    )
                stream = given.extractfile(member)
                assert stream is not None
                kept = _Noted(stream, member.size <= layout.SMALL)
                out.addfile(_plain(member.name, member.size), kept)
                files[member.name] = kept.member()
                if kept.content is not None:
                    small[member.name] = bytes(kept.content)
                progress(f"{file.tell() / GIB:.1f} GiB")
        try:
            known = layout.digests(small, {name: one.sha256 for name, one in files.items()})
        except layout.Broken as error:
            raise JobFailed(
                f"what the engine saved is not whole: {error}", hint="docker/engine.sh status"
            ) from error
        if image.id not in known:
            raise UsageFault(
                f"the engine saved {', '.join(sorted(known))}, not {image.id}",
                hint="its tag was given to another image meanwhile: name the image by its id",
            )
        for name, content in beside.items():
            assert name in _BESIDE
            _add(out, name, content)
            files[name] = Member(sha256=_sha256(content), size_bytes=len(content))
        made = Manifest(image=image, digests=tuple(sorted(known)), files=files)
        content = made.model_dump_json(indent=1).encode() + b"\n"
        _add(out, MANIFEST, content)
        _add(out, SEAL, _seal(content))
    return made


def _read(file: IO[bytes], progress: Progress) -> Read:
    read = Read()
    ours = False
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name = member.name
            mine = name in (*_BESIDE, MANIFEST, SEAL)
            if not member.isfile() or not (mine or layout.MEMBER.fullmatch(name)):
                read.problems.append(f"{name} does not belong in it")
                continue
            if name in read.files:
                read.problems.append(f"{name} is in it twice")
                continue
            if SEAL in read.files or (ours and not mine):
                read.problems.append(f"{name} stands behind what ends the image")
            if not mine:
                read.image_bytes = member.offset_data + _padded(member.size)
            ours = ours or mine
            stream = tar.extractfile(member)
            assert stream is not None
            kept = _Noted(stream, member.size <= (_LARGEST if mine else layout.SMALL))
            while kept.read(_CHUNK):
                pass
            read.files[name] = kept.member()
            if kept.content is not None:
                read.small[name] = bytes(kept.content)
            progress(f"{tar.offset / GIB:.1f} GiB read")
    return read


def _differences(manifest: Manifest, read: Read) -> Iterator[str]:
    found = {name: one for name, one in read.files.items() if name not in (MANIFEST, SEAL)}
    for name in sorted({*found, *manifest.files, *_REQUIRED}):
        here, told = found.get(name), manifest.files.get(name)
        if here is None:
            yield f"{name} is missing"
        elif told is None:
            yield f"{name} is not in its manifest"
        elif here != told:
            yield f"{name} has sha256 {here.sha256[:16]}…, its manifest says {told.sha256[:16]}…"
        elif name.startswith("blobs/") and name != layout.blob(here.sha256):
            yield f"{name} is not what its name says: its sha256 is {here.sha256[:16]}…"


class _Noted:
    """A stream that is noted as it is read: its sha256, its size, and all of it where asked."""

    def __init__(self, stream: IO[bytes], keep: bool) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._size = 0
        self.content: bytearray | None = bytearray() if keep else None

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self._sha256.update(chunk)
        self._size += len(chunk)
        if self.content is not None:
            self.content += chunk
        return chunk

    def member(self) -> Member:
        return Member(sha256=self._sha256.hexdigest(), size_bytes=self._size)


class Stream(io.RawIOBase):
    """Chunks as a file that is read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # a BufferedReader gives nothing else
        while not self._rest:
            try:
                self._rest = next(self._chunks)
            except StopIteration:
                return 0
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def _plain(name: str, size: int) -> tarfile.TarInfo:
    """A header without owner and time: one image gives one archive."""
    made = tarfile.TarInfo(name)
    made.size = size
    made.mode = 0o644
    return made


def _add(out: tarfile.TarFile, name: str, content: bytes) -> None:
    out.addfile(_plain(name, len(content)), io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _seal(manifest: bytes) -> bytes:
    return f"{_sha256(manifest)}  {MANIFEST}\n".encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(path: Path, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(path, [f"{MANIFEST}, {where or 'all of it'}: {first['msg']}"]) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageFault(
            f"cannot read {path}: {error.strerror or error}",
            hint="invoke save IMAGE FILE makes one",
        ) from error
    with file:
        yield file


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        if path.suffix in (".zst", ".gz", ".xz"):
            raise UsageFault(
                f"{path} is compressed: {error}", hint="unpack it first, as by zstd -d FILE"
            ) from error
        raise _refused(path, [f"it cannot be read to its end: {error}"]) from error


def _refused(path: Path, problems: Iterable[str]) -> UsageFault:
    lines = list(problems)
    shown = "".join(f"\n  {line}" for line in lines[:20])
    more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
    return UsageFault(
        f"{path} is not what was saved, and nothing of it was loaded:{shown}{more}",
        hint="copy it again from where it was saved, and compare both files by sha256sum",
    )
