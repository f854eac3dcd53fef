"""The very image that a record names: told by its digest, had by whichever way gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import UsageFault
from bench.record import ImageRef

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image


@dataclass(frozen=True)
class Found:
    """An image in the engine, and every digest that is known to be its own.

    One engine calls an image by its configuration, another by its manifest; an archive knows
    both (``bench.host.layout``).
    """

    image: ImageRef
    digests: frozenset[str]


@dataclass(frozen=True)
class Obtained:
    """What a job is to run in, how it was had, and whether it is the one that was asked for."""

    image: ImageRef
    how: str
    same: bool


# A way gives an image, or says in words why it does not.
Way = tuple[str, Callable[[], "Found | str"]]


def digests(image: ImageRef) -> frozenset[str]:
    """The digests by which a record, or an engine, knows an image."""
    return frozenset(one for one in (image.id, image.digest) if one)


def reference(image: Image, tag: str) -> ImageRef:
    """An engine's image as a record names it, by ``tag``."""
    named: list[str] = image.attrs.get("RepoDigests") or []
    digest = named[0].partition("@")[2] if named else None
    return ImageRef(id=str(image.id), digest=digest, tag=tag, labels=dict(image.labels))


def found(image: Image, tag: str) -> Found:
    """An engine's image with the digests that the engine has for it."""
    named: list[str] = image.attrs.get("RepoDigests") or []
    return Found(
        reference(image, tag),
        frozenset({str(image.id), *(one.partition("@")[2] for one in named)}),
    )


def present(client: DockerClient, wanted: ImageRef) -> Found | str:
    """The image by its digest, whatever it is called in the engine."""
    from docker.errors import APIError, ImageNotFound

    for digest in sorted(digests(wanted)):
        try:
            return found(client.images.get(digest), wanted.tag)
        except (ImageNotFound, APIError):
            continue
    for image in client.images.list():
        one = found(image, wanted.tag)
        if one.digests & digests(wanted):
            return one
    return "the engine does not have it"


def namesake(client: DockerClient, wanted: ImageRef) -> Found | str:
    """Another image of the record's tag: of the same content, built another time."""
    from docker.errors import ImageNotFound

    try:
        return found(client.images.get(wanted.tag), wanted.tag)
    except ImageNotFound:
        return "the engine has none of that tag"


def obtain(wanted: ImageRef, ways: Iterable[Way], *, allow_other: bool) -> Obtained:
    """The image ``wanted`` by the first of ``ways`` that gives it.

    With ``allow_other`` the first image that was had, if none is the wanted one.

    Raises:
        UsageFault: no way gives it; says of each why not.
    """
    said: list[str] = []
    other: Obtained | None = None
    for how, way in ways:
        if other is not None and allow_other:  # no hour of building for what is there
            break
        got = way()
        if isinstance(got, str):
            said.append(f"{how}: {got}")
        elif got.digests & digests(wanted):
            return Obtained(got.image, how, same=True)
        else:
            said.append(f"{how}: it is {got.image.digest or got.image.id}, another image")
            other = other or Obtained(got.image, how, same=False)
    if other is not None and allow_other:
        return other
    lines = "".join(f"\n  {line}" for line in said)
    hint = "bring it: --archive FILE that `invoke save` made, or --registry HOST/NAME"
    if other is not None:
        hint += "; to run in the other one all the same: --allow image"
    raise UsageFault(
        f"the image cannot be had: {wanted.tag} ({wanted.digest or wanted.id}){lines}", hint=hint
    )
