"""The images of ours that an engine has: by name, the newest one, and all of them removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import UsageFault
from bench.host.image import CANDIDATE, CONTENT_LABEL, REBUILT, REPOSITORY, Image

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image as DockerImage


def named(client: DockerClient, reference: str) -> Image:
    """An image by a tag or an id; ``gpt-frontend:`` may be left out.

    Raises:
        UsageFault: the engine has none of that name.
    """
    from docker.errors import APIError, ImageNotFound

    for name in (reference, f"{REPOSITORY}:{reference}"):
        try:
            found = client.images.get(name)
        except (ImageNotFound, APIError):
            continue
        return Image(str(found.id), None, name, dict(found.labels), built=False)
    raise UsageFault(
        f"the engine has no image {reference}", hint=f"docker images {REPOSITORY} lists ours"
    )


def newest(client: DockerClient) -> Image:
    """The image that `build-image` made last.

    Raises:
        UsageFault: there is none.
    """
    found = client.images.list(name=REPOSITORY, filters={"label": CONTENT_LABEL})
    tagged = [
        (one, tag) for one in found for tag in one.tags if not tag.endswith((CANDIDATE, REBUILT))
    ]
    if not tagged:
        raise UsageFault("there is no image of ours yet", hint="invoke build-image --profile cpu")
    one, tag = max(tagged, key=lambda pair: made_at(pair[0]))
    return Image(str(one.id), None, tag, dict(one.labels), built=False)


def made_at(image: DockerImage) -> str:
    """When an image came to be here. Its own date is the same for all of a profile."""
    return str(image.attrs["Metadata"]["LastTagTime"])


def remove_all(client: DockerClient) -> list[str]:
    """Remove every image that `build-image` made, but for those in use; gives their tags."""
    from docker.errors import APIError

    removed = []
    for image in client.images.list(filters={"label": CONTENT_LABEL}):
        for tag in image.tags or [str(image.id)]:
            try:
                client.images.remove(tag)
            except APIError as error:
                if error.status_code != 409:  # a container uses it
                    raise
            else:
                removed.append(tag)
    return removed
