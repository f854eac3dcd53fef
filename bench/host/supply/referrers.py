"""Documents in a registry, attached to an image's manifest, which stays as it is.

Each is an artefact of its own, a manifest that names the image as its ``subject``. A registry of
the OCI distribution specification 1.1 lists them by its referrers API; for an older one the client
keeps the list itself, an index by the tag ``sha256-…`` (the referrers tag schema).

Sources: https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md and
https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md, "Pushing Manifests with
Subject", "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.host import web
from bench.host.distribution import (
    DIGEST,
    KINDS,
    OCI_INDEX,
    OCI_MANIFEST,
    Altered,
    Repository,
    digest_of,
)
from bench.host.image import LABELS
from bench.host.supply import beside, documents, provenance
from bench.host.web import CannotAsk

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
# What a document is; its artefact's type is the same, so that tools list it by that.
TYPES = {
    beside.CONTRACT: "application/vnd.gpt-frontend.contract.v1+json",
    beside.SBOM: "application/vnd.cyclonedx+json",
    beside.PROVENANCE: "application/vnd.in-toto+json",
}
# Tells ours from what others attach, who make bills of materials too.
DOCUMENT = f"{LABELS}.document"
_WORDS = {beside.CONTRACT: "contract", beside.SBOM: "sbom", beside.PROVENANCE: "provenance"}
_TITLE = "org.opencontainers.image.title"
_CREATED = "org.opencontainers.image.created"
# The answers of registries that do not know the API; only 404 is the specification's.
_NO_API = (404, 405, 501)
# Another client may write the same list at the same time.
_ATTEMPTS = 3

Descriptor = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """An image in a registry: its platform manifest, and every digest by which it is known."""

    descriptor: Mapping[str, Any]
    digests: frozenset[str]

    @property
    def digest(self) -> str:
        """The manifest's."""
        return str(self.descriptor["digest"])

    @property
    def tag(self) -> str:
        """Under which a registry without the API has the list of what is attached."""
        return self.digest.replace(":", "-")


def subject(repository: Repository, digest: str) -> Subject:
    """The image that a registry has by ``digest``, which may be that of an index with one image.

    Raises:
        CannotAsk: the registry does not give it, or it is no image of one platform.
        Altered: it gives something else.
    """
    known = {digest}
    content, kind = repository.manifest(digest)
    manifest = _object(content, digest)
    if "manifests" in manifest:
        images = [one for one in _entries(manifest, digest) if not _attestation(one)]
        if len(images) != 1:
            raise CannotAsk(f"{digest} is an index of {len(images)} images, not of one")
        digest = str(images[0]["digest"])
        content, kind = repository.manifest(digest)
        manifest = _object(content, digest)
    config = manifest.get("config")
    found = config.get("digest") if isinstance(config, dict) else None
    if not isinstance(found, str) or kind not in KINDS:
        raise CannotAsk(f"{digest} is no image's manifest")
    descriptor = {"mediaType": kind, "digest": digest, "size": len(content)}
    return Subject(descriptor, frozenset({*known, digest, found}))


def artefact(kind: str, content: bytes, of: Subject, title: str) -> bytes:
    """The manifest that attaches a document: of the same document, the same manifest."""
    named = {DOCUMENT: _WORDS[kind]}
    if kind == beside.PROVENANCE:  # as BuildKit tells what a statement states
        named["in-toto.io/predicate-type"] = provenance.PREDICATE_TYPE
    made = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": TYPES[kind],
        "config": _described(EMPTY, EMPTY_TYPE),
        "layers": [{**_described(content, TYPES[kind]), "annotations": {_TITLE: title}}],
        "subject": dict(of.descriptor),
        "annotations": {
            **named,
            _CREATED: documents.dated(kind, content).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    }
    return json.dumps(made, sort_keys=True, separators=(",", ":")).encode()


def attach(
    repository: Repository, of: Subject, given: documents.Documents, stem: str
) -> tuple[str, ...]:
    """Attach documents to an image; gives the kinds that were not there before.

    ``stem`` is how their files are called, without what tells the kind.

    Raises:
        CannotAsk: the registry refuses them. Some may be there: the next call adds what is missing.
        Altered: its list is not what it says.
    """
    there = {str(one["digest"]) for one in listed(repository, of)}
    made = {kind: artefact(kind, one, of, f"{stem}{kind}") for kind, one in given.items()}
    added = {kind: one for kind, one in made.items() if digest_of(one) not in there}
    unlisted: list[Descriptor] = []
    for kind, manifest in added.items():
        repository.put_blob(EMPTY)
        repository.put_blob(given[kind])
        said = repository.put_manifest(digest_of(manifest), manifest, OCI_MANIFEST)
        if said.get("OCI-Subject") is None:  # the registry has no list, so that the client keeps it
            entry = _described(manifest, OCI_MANIFEST)
            about = json.loads(manifest)["annotations"]
            unlisted.append({**entry, "artifactType": TYPES[kind], "annotations": about})
    if unlisted:
        _list(repository, of, unlisted)
    return tuple(added)


def attached(repository: Repository, of: Subject) -> dict[str, bytes]:
    """The documents of ours that are attached to an image, of each kind the newest.

    Raises:
        CannotAsk: the registry does not give them.
        Altered: one is not what its digest says, or not this image's.
    """
    found: dict[str, bytes] = {}
    for entry in listed(repository, of):
        if entry.get("artifactType") not in TYPES.values():
            continue
        digest = str(entry["digest"])
        manifest = _object(repository.manifest(digest)[0], digest)
        about = manifest.get("annotations")
        word = about.get(DOCUMENT) if isinstance(about, dict) else None
        kind = next((one for one in TYPES if _WORDS[one] == word), None)
        if kind is None:  # another tool's
            continue
        content = _document(repository, of, kind, digest, manifest)
        if wrong := documents.wrong({kind: content}, of.digests):
            raise Altered(f"{digest} is attached to it and is not: {wrong}")
        if kind not in found or _age(kind, content) > _age(kind, found[kind]):
            found[kind] = content
    return found


def listed(repository: Repository, of: Subject) -> list[Descriptor]:
    """What a registry lists as attached to an image, by its API or by the tag schema.

    Raises:
        CannotAsk: it gives no list.
        Altered: it gives another one than it names.
    """
    try:
        found: list[Descriptor] = []
        for page in repository.pages(f"referrers/{of.digest}", {"Accept": OCI_INDEX}):
            if page.headers.get_content_type() != OCI_INDEX:  # whatever answers any address
                break
            found += _entries(_object(page.content, page.url), page.url)
        else:
            return found
    except web.Refusal as refusal:
        if refusal.status not in _NO_API:
            raise
    return _entries(_index(repository, of), of.tag)


def _list(repository: Repository, of: Subject, new: list[Descriptor]) -> None:
    """Add to the list that clients keep; every other entry of it stays as it is."""
    for attempt in range(_ATTEMPTS + 1):
        index = _index(repository, of)
        there = {one["digest"] for one in _entries(index, of.tag)}
        missing = [one for one in new if one["digest"] not in there]
        if not missing:
            return
        if attempt < _ATTEMPTS:
            made = {**index, "manifests": [*index["manifests"], *missing]}
            repository.put_manifest(of.tag, json.dumps(made).encode(), OCI_INDEX)
    raise CannotAsk(f"{of.tag}: others write this list at the same time, and it is not whole")


def _index(repository: Repository, of: Subject) -> dict[str, Any]:
    """The list that clients keep; an empty one where there is none yet."""
    try:
        content, _ = repository.manifest(of.tag)
    except web.Refusal as refusal:
        if refusal.status != 404:
            raise
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    index = _object(content, of.tag)
    if not isinstance(index.get("manifests"), list):
        raise CannotAsk(f"the tag {of.tag} is taken by something that is no list of documents")
    return index


def _document(
    repository: Repository, of: Subject, kind: str, digest: str, manifest: Mapping[str, Any]
) -> bytes:
    """The document that an artefact of ours has."""
    about, layers = manifest.get("subject"), manifest.get("layers")
    if not isinstance(about, dict) or about.get("digest") != of.digest:
        raise Altered(f"{digest} is listed as attached to {of.digest} and names another image")
    if not isinstance(layers, list) or len(layers) != 1 or not isinstance(layers[0], dict):
        raise Altered(f"{digest} says that it is a document of ours and has not one file")
    layer = layers[0]
    if layer.get("mediaType") != TYPES[kind] or not DIGEST.fullmatch(str(layer.get("digest"))):
        raise Altered(f"{digest} says that it is a document of ours and has another kind of file")
    return repository.blob(str(layer["digest"]))


def _age(kind: str, content: bytes) -> tuple[Any, ...]:
    # Two of one second are told apart by their content, the same way everywhere.
    return documents.dated(kind, content), digest_of(content)


def _described(content: bytes, kind: str) -> Descriptor:
    return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}


def _attestation(entry: Mapping[str, Any]) -> bool:
    """Whether an index has this entry beside its image: BuildKit's are of no platform."""
    platform = entry.get("platform")
    return isinstance(platform, dict) and platform.get("os") == "unknown"


def _object(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CannotAsk(f"{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CannotAsk(f"{name} is no JSON object")
    return value


def _entries(index: Mapping[str, Any], name: str) -> list[Descriptor]:
    """The entries of an index that name something by sha256; others are not read."""
    found = index.get("manifests")
    if not isinstance(found, list):
        raise CannotAsk(f"{name} lists nothing")
    return [
        one
        for one in found
        if isinstance(one, dict) and DIGEST.fullmatch(str(one.get("digest", "")))
    ]
