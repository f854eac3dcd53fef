"""An image taken out of an engine into an archive, and into an engine from one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import JobFailed, UsageFault
from bench.host import images, verify
from bench.host.pins import Pins
from bench.host.supply import archive, beside, documents, obtain
from bench.record import ImageRef

if TYPE_CHECKING:
    from docker import DockerClient

Progress = Callable[[str], None]

_MEMBERS = {
    archive.CONTRACT: beside.CONTRACT,
    archive.SBOM: beside.SBOM,
    archive.PROVENANCE: beside.PROVENANCE,
}


@dataclass(frozen=True)
class Saved:
    """What was written; ``lacking`` names what is not known of the image."""

    image: ImageRef
    size_bytes: int
    lacking: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """What was loaded; ``replaced`` is the image that had its tag before, if another."""

    found: obtain.Found
    replaced: str | None
    lacking: tuple[str, ...]


def save(
    client: DockerClient,
    reference: str | None,
    path: Path,
    pinned: Pins,
    progress: Progress = lambda _: None,
    folder: Path = verify.FOLDER,
) -> Saved:
    """Write an image of ours, with what is known of it, to the archive ``path``.

    Raises:
        UsageFault: there is no such image, it has no record of a kept contract, or ``path``
            cannot be written.
        JobFailed: the image does not tell what is in it, or the engine saves no OCI layout.
    """
    if path.suffix != ".tar":
        raise UsageFault(
            f"{path} does not end in .tar",
            hint="name it FILE.tar; the layers in it are compressed already",
        )
    named = images.newest(client) if reference is None else images.named(client, reference)
    there = client.images.get(named.id)
    tag = next((one for one in there.tags if one == named.tag), None)
    if tag is None:
        raise UsageFault(
            f"{reference} is saved by its tag, and has none by that name",
            hint=f"one of: {', '.join(there.tags) or 'invoke build-image gives it one'}",
        )
    known = obtain.reference(there, tag)
    with_it = {archive.CONTRACT: documents.contract(known, folder)}
    lacking = []
    told = documents.origin(known, folder)
    if told is None:
        lacking.append("provenance: it was not built here, or before there was any")
    else:
        with_it[archive.PROVENANCE] = told
    with_it[archive.SBOM] = documents.bill(client, there, known, pinned, folder, progress)
    archive.write(path, client.api.get_image(tag), known, with_it, progress)
    return Saved(known, path.stat().st_size, tuple(lacking))


def load(
    client: DockerClient,
    path: Path,
    progress: Progress = lambda _: None,
    *,
    digest: str | None = None,
    folder: Path = verify.FOLDER,
) -> Loaded:
    """Verify an archive, then give its image to the engine, and keep what came with it.

    ``digest`` is one that the image must have.

    Raises:
        UsageFault: it is not what was saved, or not of that digest; nothing was loaded.
        JobFailed: the engine took it and has another image.
    """
    progress("verifying")
    checked = archive.verified(path, progress)
    named = checked.manifest.image
    if digest is not None and digest not in checked.manifest.digests:
        raise UsageFault(
            f"{path} has {named.tag}, {named.digest or named.id}, not {digest}",
            hint="is it the right file? its image has: " + ", ".join(checked.manifest.digests),
        )
    with_it = {kind: checked.beside[one] for one, kind in _MEMBERS.items() if one in checked.beside}
    if wrong := documents.wrong(with_it, frozenset(checked.manifest.digests)):
        raise UsageFault(
            f"{path} is not taken: {wrong}", hint="save it again where it was built: invoke save"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):  # before the engine has anything
        raise _unwritable(folder, "permission denied")
    before = obtain.namesake(client, named)
    part = archive.Stream(archive.engine_part(path, checked.image_bytes, progress))
    client.images.load(part)
    after = obtain.namesake(client, named)
    digests = frozenset(checked.manifest.digests)
    if isinstance(after, str) or not after.digests & digests:
        seen = after if isinstance(after, str) else after.image.id
        raise JobFailed(
            f"the engine took {path} and does not have its image under {named.tag}: {seen}",
            hint="docker images; docker version: an engine before 25.0 does not load OCI layouts",
        )
    documents.lay_out(with_it, named.tag, digests, folder)
    replaced = None
    if isinstance(before, obtain.Found) and not before.digests & digests:
        replaced = before.image.id
    lacking = ("provenance",) if beside.PROVENANCE not in with_it else ()
    return Loaded(obtain.Found(after.image, after.digests | digests), replaced, lacking)


def _unwritable(folder: Path, why: str) -> UsageFault:
    return UsageFault(f"cannot write {folder}: {why}", hint="make the folder writable for you")
