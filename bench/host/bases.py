"""Which image a build starts from, and what it is identified by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.errors import UsageFault
from bench.host.pins import Pins

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

# A registry that is there answers a question about one image within this time.
REGISTRY_TIMEOUT_S = 8
# Between two answers while an image is pulled.
PULL_TIMEOUT_S = 300

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """``id`` is the manifest's digest where one is known, else the engine's id of the image."""

    ref: str
    id: str
    origin: Literal["named", "pinned", "made"]


def resolve(
    named: str | None,
    profile: str,
    pins: Pins,
    client: DockerClient,
    *,
    made_allowed: bool,
    pull: bool,
    progress: Progress,
) -> Base:
    """The base of a build: the named one, else the profile's, else (if allowed) the made one.

    Without ``pull`` nothing is fetched: an absent base is only looked up in its registry.

    Raises:
        UsageFault: none of them is to be had; the hint says what would work.
    """
    if named is not None:
        found = _obtain(named, client, pull, progress)
        if found is None:
            raise UsageFault(
                f"the base image {named} is not here and cannot be pulled",
                hint="check its name and the network; `docker images` lists those that are here",
            )
        return Base(named, found, "named")
    pinned = pins.profile(profile).base
    found = _obtain(pinned, client, pull, progress)
    if found is not None:
        return Base(pinned, found, "pinned")
    made = pins.base_image.tag
    local = _local(made, client)
    if local is not None and made_allowed:
        progress(f"no registry answers: building on {made}")
        return Base(made, identity(local), "made")
    build = f"`invoke build-image --profile {profile}`"
    if local is not None:
        hint = f"{build} builds on {made}, which `invoke base-image` made"
    else:
        hint = (
            f"`sudo .venv/bin/invoke base-image` makes a base, {build} then builds on it; "
            "--base IMAGE takes one that is here"
        )
    raise UsageFault(f"the base image {pinned} is not here and no registry answers", hint=hint)


def identity(image: Image) -> str:
    """What tells an image from any other: its manifest's digest, else its id."""
    digests: list[str] = image.attrs.get("RepoDigests") or []
    return digests[0].partition("@")[2] if digests else str(image.id)


def _obtain(ref: str, client: DockerClient, pull: bool, progress: Progress) -> str | None:
    """An image's identity, after pulling it if it is not here; None where it is not to be had."""
    local = _local(ref, client)
    if local is None:
        offered = _offered(ref, client, progress)
        if offered is None:
            return None
        if pull:
            _pull(ref, client, progress)
        local = _local(ref, client)
        if local is None:
            return offered
    # The digest in a reference is the identity, however an engine files the image.
    return ref.partition("@")[2] or identity(local)


def _local(ref: str, client: DockerClient) -> Image | None:
    from docker.errors import ImageNotFound

    try:
        return client.images.get(ref)
    except ImageNotFound:
        return None


def _offered(ref: str, client: DockerClient, progress: Progress) -> str | None:
    """The digest under which a registry offers an image; None where none answers."""
    from docker.errors import APIError
    from requests.exceptions import RequestException

    progress(f"looking for {ref} in its registry")
    before, client.api.timeout = client.api.timeout, REGISTRY_TIMEOUT_S
    try:
        return str(client.images.get_registry_data(ref).id)
    except (APIError, RequestException):
        return None
    finally:
        client.api.timeout = before


def _pull(ref: str, client: DockerClient, progress: Progress) -> None:
    from docker.errors import APIError
    from requests.exceptions import RequestException

    before, client.api.timeout = client.api.timeout, PULL_TIMEOUT_S
    try:
        for event in client.api.pull(ref, stream=True, decode=True):
            if "error" in event:
                raise UsageFault(f"cannot pull {ref}: {event['error']}", hint="check the network")
            progress(f"pulling {ref}: {event.get('status', '')}")
    except (APIError, RequestException) as error:
        raise UsageFault(f"cannot pull {ref}: {error}", hint="check the network") from error
    finally:
        client.api.timeout = before
