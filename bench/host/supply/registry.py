"""An image to a registry and from one, by digest: the engine carries it, a tag decides nothing.

What is known of it is attached to it there and had from there by this process (``referrers``): an
engine carries images only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import JobFailed, UsageFault
from bench.host import verify
from bench.host.distribution import Altered
from bench.host.image import CONTENT_LABEL, LABELS, REPOSITORY, TAG_DIGITS
from bench.host.report import plain
from bench.host.supply import documents, reach, referrers
from bench.host.web import CannotAsk

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

Progress = Callable[[str], None]

# HOST[:PORT]/NAME; without a host the engine would mean Docker Hub's library.
_REPOSITORY = re.compile(
    r"(?:localhost|[\w-]+(?:\.[\w-]+)+|[\w.-]+:\d+|\[[0-9a-f:]+\]:\d+)(?::\d+)?(?:/[a-z0-9][a-z0-9._-]*)+"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PUSHED = re.compile(r": digest: (sha256:[0-9a-f]{64}) ")
_HINT = "docker login HOST; a registry without TLS belongs in the engine's insecure-registries"


def repository(name: str) -> str:
    """``name``, where it is a repository of a registry.

    Raises:
        UsageFault: it has no host, or a tag.
    """
    if _REPOSITORY.fullmatch(name) is None:
        raise UsageFault(
            f"'{name}' is no repository of a registry",
            hint="HOST/NAME, as registry.example:5000/me/gpt-frontend; tag and digest are added",
        )
    return name


def reference(name: str) -> tuple[str, str]:
    """(repository, digest) of HOST/NAME@sha256:….

    Raises:
        UsageFault: it is not of that form.
    """
    place, _, digest = name.partition("@")
    if _DIGEST.fullmatch(digest) is None:
        raise UsageFault(
            f"'{name}' names no digest, and a tag can be given to another image",
            hint="HOST/NAME@sha256:…, as `invoke push` prints it",
        )
    return repository(place), digest


def push(
    client: DockerClient, image: Image, tag: str, place: str, progress: Progress = lambda _: None
) -> str:
    """Push an image to ``place``, under the version in its ``tag``; gives HOST/NAME@sha256:….

    The engine keeps no name of it.

    Raises:
        UsageFault: ``place`` is no repository.
        JobFailed: the registry refuses it, or does not say what it has.
    """
    place, version = repository(place), tag.rpartition(":")[2]
    image.tag(place, tag=version)
    try:
        events = client.api.push(place, tag=version, stream=True, decode=True)
        digest = _followed(events, f"pushing to {place}", progress)
    finally:
        client.images.remove(f"{place}:{version}")
    if digest is None:
        raise JobFailed(f"{place} does not say under which digest it has the image", hint=_HINT)
    return f"{place}@{digest}"


def pull(client: DockerClient, name: str, progress: Progress = lambda _: None) -> Image:
    """Pull HOST/NAME@sha256:…; the engine holds every byte to the digest.

    Raises:
        UsageFault: ``name`` has no digest.
        JobFailed: the registry does not have it, or does not answer.
    """
    from docker.errors import DockerException

    place, digest = reference(name)
    try:
        events = client.api.pull(f"{place}@{digest}", stream=True, decode=True)
        _followed(events, f"pulling {name}", progress)
        return client.images.get(f"{place}@{digest}")
    except DockerException as error:
        said = plain(str(getattr(error, "explanation", None) or error))
        raise JobFailed(f"pulling {name}: {said}", hint=_HINT) from error


def attach(
    client: DockerClient,
    name: str,
    tag: str,
    given: documents.Documents,
    environ: Mapping[str, str],
) -> tuple[str, ...]:
    """Attach documents to HOST/NAME@sha256:… in its registry; gives the kinds that it lacked.

    Raises:
        CannotAsk: they could not be attached; says why.
    """
    place, digest = reference(name)
    try:
        there = reach.repository(place, client.info(), environ)
        return referrers.attach(there, referrers.subject(there, digest), given, verify.stem(tag))
    except Altered as error:
        raise CannotAsk(str(error)) from error


def attached(
    client: DockerClient, name: str, environ: Mapping[str, str]
) -> tuple[dict[str, bytes], frozenset[str]]:
    """The documents attached to HOST/NAME@sha256:…, and every digest of that image.

    Raises:
        UsageFault: ``name`` has no digest.
        CannotAsk: the registry does not give them; says why.
        JobFailed: it gives what is not this image's, or not what it was when it was attached.
    """
    place, digest = reference(name)
    try:
        there = reach.repository(place, client.info(), environ)
        image = referrers.subject(there, digest)
        return referrers.attached(there, image), image.digests
    except Altered as error:
        raise JobFailed(
            f"{name} is not taken: {plain(str(error))}",
            hint="delete it in the registry and push again where it was built, or take the image "
            "from an archive: invoke load",
        ) from error


def tag_of(labels: Mapping[str, str]) -> str:
    """The tag that an image of these labels has where it was built.

    Raises:
        UsageFault: they are none of ours.
    """
    profile, content = labels.get(f"{LABELS}.profile", ""), labels.get(CONTENT_LABEL, "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", profile) or not re.fullmatch(
        r"[0-9a-f]{64}", content
    ):
        raise UsageFault(
            "the image carries no labels of ours, so nothing is known of what it promises",
            hint="`invoke push` pushes those that `invoke build-image` made",
        )
    return f"{REPOSITORY}:{profile}-{content[:TAG_DIGITS]}"


def _followed(events: Iterable[Any], what: str, progress: Progress) -> str | None:
    """Follow what the engine tells; the digest that a push ends with."""
    digest = None
    for event in events:
        if "error" in event:
            raise JobFailed(f"{what}: {plain(str(event['error']))}", hint=_HINT)
        # Only one of the engine's stores says it apart, both say it in words.
        said = _PUSHED.search(str(event.get("status", "")))
        digest = (event.get("aux") or {}).get("Digest") or (said[1] if said else digest)
        told = " ".join(str(event[key]) for key in ("status", "id") if event.get(key))
        if told:
            progress(plain(told))
    return digest
