"""An image taken out of an engine into an archive, and into an engine from one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bench.contract import ContractRecord
from bench.errors import JobFailed, UsageFault
from bench.host import images, verify
from bench.host.pins import Pins
from bench.host.supply import archive, beside, contents, obtain, provenance, sbom
from bench.record import ImageRef

if TYPE_CHECKING:
    from docker import DockerClient

Progress = Callable[[str], None]


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
    with_it = {archive.CONTRACT: _contract(known, folder)}
    lacking = []
    told = _provenance(known, folder)
    if told is None:
        lacking.append("provenance: it was not built here, or before there was any")
    else:
        with_it[archive.PROVENANCE] = told
    listed = contents.ask(client, known.id, folder=folder, progress=progress)
    made = sbom.Bill(known, sbom.created(str(there.attrs.get("Created", ""))), listed, pinned)
    with_it[archive.SBOM] = sbom.write(made, "json").encode()
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
    _agreeing(checked, path)
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
    for member, kind in (
        (archive.CONTRACT, beside.CONTRACT),
        (archive.SBOM, beside.SBOM),
        (archive.PROVENANCE, beside.PROVENANCE),
    ):
        where = beside.path(named.tag, kind, folder)
        if member in checked.beside:
            beside.keep(where, checked.beside[member])
        else:
            where.unlink(missing_ok=True)  # it would be of another image
    replaced = None
    if isinstance(before, obtain.Found) and not before.digests & digests:
        replaced = before.image.id
    lacking = ("provenance",) if archive.PROVENANCE not in checked.beside else ()
    return Loaded(obtain.Found(after.image, after.digests | digests), replaced, lacking)


def _contract(known: ImageRef, folder: Path) -> bytes:
    """The record that this very image has kept its contract."""
    path = beside.path(known.tag, beside.CONTRACT, folder)
    hint = f"invoke verify-image --image {known.tag}"
    try:
        content = path.read_bytes()
        record = ContractRecord.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise UsageFault(
            f"{known.tag} has no record of its contract in {path}", hint=hint
        ) from error
    if record.image.id != known.id:
        raise UsageFault(f"{path} is of another image: {record.image.id}", hint=hint)
    if not record.passed:
        raise UsageFault(f"{known.tag} has not kept its contract", hint=hint)
    return content


def _provenance(known: ImageRef, folder: Path) -> bytes | None:
    """Where this very image is from, if it was built here."""
    path = beside.path(known.tag, beside.PROVENANCE, folder)
    if not path.is_file() or provenance.subject(path) not in obtain.digests(known):
        return None
    return path.read_bytes()


def _agreeing(checked: archive.Verified, path: Path) -> None:
    """What came with an image is of this image, and its contract is kept."""
    digests = checked.manifest.digests
    try:
        record = ContractRecord.model_validate_json(checked.beside[archive.CONTRACT])
        wrong = None if record.passed else "its contract was not kept"
        if record.image.id not in digests:
            wrong = f"its contract's record is of another image: {record.image.id}"
    except ValidationError as error:
        wrong = f"its contract's record cannot be read: {error.errors()[0]['msg']}"
    if wrong is None and archive.PROVENANCE in checked.beside:
        said = provenance.subject_of(checked.beside[archive.PROVENANCE], archive.PROVENANCE)
        if said not in digests:
            wrong = f"its provenance is of another image: {said}"
    if wrong is not None:
        raise UsageFault(
            f"{path} is not taken: {wrong}", hint="save it again where it was built: invoke save"
        )


def _unwritable(folder: Path, why: str) -> UsageFault:
    return UsageFault(f"cannot write {folder}: {why}", hint="make the folder writable for you")
