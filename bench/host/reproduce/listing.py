"""Every file of an image, layer by layer, with its checksum: read from what an engine saves.

An engine before containerd's store saves layers unpacked, a later one compressed; both give the
same list. It is kept as JSON Lines, so that two lists can be compared by any tool.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import JobFailed, UsageFault
from bench.host import layout
from bench.host.reproduce import steps
from bench.host.supply import archive, beside

_CHUNK = 2**20
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
}

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Progress = Callable[[str], None]
# Given a file whose content is wanted, as it is read: its layer's digest and its path.
OnFile = Callable[[str, str, IO[bytes]], None]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Plain):
    """One member of a layer. ``mtime`` in seconds since 1970; ``sha256`` of a file's content.

    ``target`` is what a link names; ``attributes`` are the extended ones.
    """

    path: str
    kind: Literal["file", "folder", "link", "hard link", "other"]
    mode: str
    owner: str
    mtime: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    attributes: dict[str, str] = {}


class Layer(_Plain):
    """A layer: ``number`` from 1, ``diff_id`` of its content, ``digest`` as it is compressed."""

    number: int
    step: str
    diff_id: Digest
    digest: Digest


class Header(_Plain):
    """What a list begins with. ``image`` is the platform manifest's digest."""

    schema_version: Literal[1] = 1
    image: Digest
    config: Digest
    tag: str
    layers: int


class Listing(_Plain):
    """An image in full: ``settings`` is its configuration, ``entries`` by layer, in their order."""

    header: Header
    layers: tuple[Layer, ...]
    settings: dict[str, Any]
    entries: tuple[tuple[Entry, ...], ...]


def read(
    saved: Iterable[bytes],
    tag: str,
    progress: Progress = lambda _: None,
) -> Listing:
    """List an image from the archive that an engine makes of it.

    Raises:
        JobFailed: it is no OCI layout of one image.
    """
    small: dict[str, bytes] = {}
    found: dict[str, tuple[Entry, ...]] = {}
    try:
        with tarfile.open(fileobj=archive.Stream(saved), mode="r|") as given:
            for member in given:
                stream = given.extractfile(member) if member.isfile() else None
                if stream is None:
                    continue
                start = stream.read(1)
                if start in (b"{", b"[") and member.size <= layout.SMALL:
                    small[member.name] = start + stream.read()
                elif member.name.startswith("blobs/"):
                    progress(f"layer of {member.size / archive.GIB:.2f} GiB")
                    rest = iter(functools.partial(stream.read, _CHUNK), b"")
                    # Buffered: what looks for the kind of compression takes a short read for all.
                    whole = io.BufferedReader(archive.Stream(itertools.chain((start,), rest)))
                    found[member.name] = _layer(whole)
        return _listing(small, found, tag)
    except (tarfile.TarError, EOFError, layout.Broken, KeyError, ValueError) as error:
        raise JobFailed(
            f"{tag} cannot be read as the engine saves it: {error}",
            hint="docker version: engines save OCI layouts since 25.0; docker/engine.sh has one",
        ) from error


def extract(saved: Iterable[bytes], wanted: Mapping[str, set[str]], on_file: OnFile) -> None:
    """Give the content of some files: ``wanted`` are paths by the layer's digest."""
    named = {layout.blob(digest): digest for digest in wanted}
    with tarfile.open(fileobj=archive.Stream(saved), mode="r|") as given:
        for member in given:
            stream = given.extractfile(member) if member.name in named else None
            if stream is None:
                continue
            digest = named[member.name]
            with tarfile.open(fileobj=stream, mode="r|*") as layer:
                for inner in layer:
                    content = layer.extractfile(inner) if inner.isfile() else None
                    if content is not None and inner.name in wanted[digest]:
                        on_file(digest, inner.name, content)


def write(listing: Listing, path: Path) -> None:
    """Keep a list as JSON Lines: the header, the settings, then each layer with what is in it.

    Raises:
        UsageFault: it cannot be written.
    """
    beside.keep(path, "".join(f"{line}\n" for line in _lines(listing)))


def load(path: Path) -> Listing:
    """A list that ``write`` wrote.

    Raises:
        UsageFault: it cannot be read, or is none.
    """
    hint = "invoke verify-image --files FILE writes one"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        header = Header.model_validate_json(lines[0])
        settings = json.loads(lines[1])
        layers: list[Layer] = []
        entries: list[list[Entry]] = []
        for line in lines[2:]:
            if line.startswith('{"number"'):
                layers.append(Layer.model_validate_json(line))
                entries.append([])
            else:
                entries[-1].append(Entry.model_validate_json(line))
    except OSError as error:
        raise UsageFault(f"cannot read {path}: {error.strerror or error}", hint=hint) from error
    except (ValidationError, ValueError, IndexError) as error:
        raise UsageFault(f"{path} is no list of an image's files", hint=hint) from error
    if len(layers) != header.layers:
        raise UsageFault(
            f"{path} was cut short: {len(layers)} of {header.layers} layers", hint=hint
        )
    return Listing(
        header=header,
        layers=tuple(layers),
        settings=settings,
        entries=tuple(map(tuple, entries)),
    )


def _lines(listing: Listing) -> Iterator[str]:
    yield listing.header.model_dump_json()
    yield json.dumps(listing.settings, sort_keys=True)
    for layer, entries in zip(listing.layers, listing.entries, strict=True):
        yield layer.model_dump_json()
        for entry in entries:
            yield entry.model_dump_json(exclude_defaults=True)


def _layer(stream: IO[bytes]) -> tuple[Entry, ...]:
    """What is in a layer, compressed or not."""
    entries = []
    with tarfile.open(fileobj=stream, mode="r|*") as layer:
        for member in layer:
            content = layer.extractfile(member) if member.isfile() else None
            entries.append(_entry(member, content))
    return tuple(entries)


def _entry(member: tarfile.TarInfo, content: IO[bytes] | None) -> Entry:
    sha256 = ""
    if content is not None:
        summed = hashlib.sha256()
        while chunk := content.read(_CHUNK):
            summed.update(chunk)
        sha256 = summed.hexdigest()
    prefix = "SCHILY.xattr."
    return Entry(
        path=member.name,
        kind=_KINDS.get(member.type, "other"),  # type: ignore[arg-type] # its values are the Literal's
        mode=f"{member.mode:04o}",
        owner=f"{member.uid}:{member.gid}",
        mtime=int(member.mtime),
        size=member.size if content is not None else 0,
        sha256=sha256,
        target=member.linkname,
        attributes={
            key.removeprefix(prefix): value.encode("utf-8", "surrogateescape").hex()
            for key, value in sorted(member.pax_headers.items())
            if key.startswith(prefix)
        },
    )


def _listing(small: dict[str, bytes], found: dict[str, tuple[Entry, ...]], tag: str) -> Listing:
    manifest_digest, manifest = layout.platform(small)
    config = str(manifest["config"]["digest"])
    settings = json.loads(small[layout.blob(config)])
    digests = [str(one["digest"]) for one in manifest["layers"]]
    diff_ids = settings["rootfs"]["diff_ids"]
    names = steps.of_layers(settings.get("history") or [], len(digests))
    layers = tuple(
        Layer(number=number, step=step, diff_id=diff_id, digest=digest)
        for number, (step, diff_id, digest) in enumerate(
            zip(names, diff_ids, digests, strict=True), start=1
        )
    )
    return Listing(
        header=Header(image=manifest_digest, config=config, tag=tag, layers=len(layers)),
        layers=layers,
        settings=settings,
        entries=tuple(found[layout.blob(digest)] for digest in digests),
    )
