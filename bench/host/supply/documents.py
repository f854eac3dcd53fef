"""What is known of an image, as documents: which must be there, which are of the very image, and
how they are laid out. The rules are the same for an archive and for a registry.

Documents are bytes by their kind (``beside.KINDS``): the contract's record, the bill of materials,
the provenance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bench.contract import ContractRecord
from bench.errors import UsageFault
from bench.host.pins import Pins
from bench.host.supply import beside, contents, obtain, provenance, sbom
from bench.record import ImageRef

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

Documents = Mapping[str, bytes]
Progress = Callable[[str], None]

# As a user is told of them.
NAMES = {
    beside.CONTRACT: "contract",
    beside.SBOM: "bill of materials",
    beside.PROVENANCE: "provenance",
}


def contract(known: ImageRef, folder: Path) -> bytes:
    """The record that this very image has kept its contract.

    Raises:
        UsageFault: there is none, or it is of another image, or the contract was not kept.
    """
    path = beside.path(known.tag, beside.CONTRACT, folder)
    hint = f"invoke verify-image --image {known.tag}"
    try:
        content = path.read_bytes()
        record = ContractRecord.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise UsageFault(
            f"{known.tag} has no record of its contract in {path}", hint=hint
        ) from error
    # An image that came from elsewhere may have another id there, and the same digest.
    if not obtain.digests(record.image) & obtain.digests(known):
        raise UsageFault(f"{path} is of another image: {record.image.id}", hint=hint)
    if not record.passed:
        raise UsageFault(f"{known.tag} has not kept its contract", hint=hint)
    return content


def origin(known: ImageRef, folder: Path) -> bytes | None:
    """Where this very image is from; None where it was not built here, or before there was any."""
    path = beside.path(known.tag, beside.PROVENANCE, folder)
    if not path.is_file() or provenance.subject(path) not in obtain.digests(known):
        return None
    return path.read_bytes()


def bill(
    client: DockerClient,
    image: Image,
    known: ImageRef,
    pinned: Pins,
    folder: Path,
    progress: Progress = lambda _: None,
) -> bytes:
    """The bill of materials of an image, which is asked what is in it.

    Raises:
        UsageFault, JobFailed: as ``contents.ask`` does.
    """
    listed = contents.ask(client, known.id, folder=folder, progress=progress)
    created = sbom.created(str(image.attrs.get("Created", "")))
    return sbom.write(sbom.Bill(known, created, listed, pinned), "json").encode()


def of(
    client: DockerClient,
    image: Image,
    known: ImageRef,
    pinned: Pins,
    folder: Path,
    progress: Progress = lambda _: None,
) -> dict[str, bytes]:
    """The documents of an image as they lie in ``folder``; a bill that is not there is made there.

    Raises:
        UsageFault: it has no record of a kept contract.
        JobFailed: the image does not tell what is in it.
    """
    found = {beside.CONTRACT: contract(known, folder)}
    where = beside.path(known.tag, beside.SBOM, folder)
    kept = where.read_bytes() if where.is_file() else b""
    if not _names(beside.SBOM, kept, obtain.digests(known)):
        kept = bill(client, image, known, pinned, folder, progress)
        beside.keep(where, kept)
    found[beside.SBOM] = kept
    told = origin(known, folder)
    if told is not None:
        found[beside.PROVENANCE] = told
    return found


def wrong(documents: Documents, digests: frozenset[str]) -> str | None:
    """Why these are not the documents of the image of these digests; None where they are."""
    for kind, content in documents.items():
        name = NAMES[kind]
        try:
            named = _named(kind, content)
        except UsageFault as fault:
            return fault.message
        if not named & digests and not _names(kind, content, digests):
            return f"its {name} is of another image: {', '.join(sorted(named)) or 'none'}"
    if beside.CONTRACT in documents:
        record = ContractRecord.model_validate_json(documents[beside.CONTRACT])
        if not record.passed:
            return "its contract was not kept"
    return None


def dated(kind: str, content: bytes) -> datetime:
    """When a document was made, as it says itself, to the second; 1970 where it does not."""
    said: object
    try:
        value = json.loads(content)
        if kind == beside.CONTRACT:
            said = value["created_at"]
        elif kind == beside.SBOM:
            said = value["metadata"]["timestamp"]
        else:
            said = value["predicate"]["runDetails"]["metadata"]["finishedOn"]
    except (ValueError, LookupError, TypeError, RecursionError):
        said = ""
    return sbom.created(str(said))


def lay_out(documents: Documents, tag: str, digests: frozenset[str], folder: Path) -> None:
    """Keep the documents of an image by its tag, and nothing there that is of another image.

    Raises:
        UsageFault: ``folder`` cannot be written.
    """
    for kind in beside.KINDS:
        where = beside.path(tag, kind, folder)
        if kind in documents:
            beside.keep(where, documents[kind])
        elif where.is_file() and not _names(kind, where.read_bytes(), digests):
            where.unlink()


def _names(kind: str, content: bytes, digests: frozenset[str]) -> bool:
    """Whether a document is of the image of these digests."""
    try:
        if _named(kind, content) & digests:
            return True
        return kind == beside.SBOM and sbom.is_of(content, digests)
    except UsageFault:
        return False


def _named(kind: str, content: bytes) -> frozenset[str]:
    """The digests by which a document names its image.

    Raises:
        UsageFault: it is no such document.
    """
    if kind == beside.PROVENANCE:
        return frozenset({provenance.subject_of(content, "its provenance")})
    if kind == beside.SBOM:
        return frozenset({sbom.subject_of(content)})
    try:
        return obtain.digests(ContractRecord.model_validate_json(content).image)
    except ValidationError as error:
        raise UsageFault(
            f"its contract's record cannot be read: {error.errors()[0]['msg']}",
            hint="invoke verify-image makes it anew",
        ) from error
