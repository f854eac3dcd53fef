"""Which image a build starts from, and what it is identified by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.errors import UsageFault
from bench.host.mirrors import Mirrors, base_ref
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
    """``id`` is the manifest's digest where one is known, else the engine's id of the image.

    ``ref`` is where it is had from, which may be a mirror; ``name`` is what it is called in public.
    """

    ref: str
    name: str
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
    mirrors: Mirrors | None = None,
) -> Base:
    """The base of a build: the named one, else the profile's, else (if allowed) the made one.

    Without ``pull`` nothing is fetched: an absent base is only looked up in its registry.

    Raises:
        UsageFault: none of them is to be had; the hint says what would work.
    """
    mirrors = mirrors or Mirrors()
    if named is not None:
        # One that is here needs no mirror.
        ref = named if _local(named, client) else base_ref(named, mirrors)
        found = _obtain(ref, client, pull, progress)
        if found is None:
            raise UsageFault(
                f"the base image {ref} is not here and cannot be pulled",
                hint="check its name and the network; `docker images` lists those that are here",
            )
        return Base(ref, named, found, "named")
    pinned = pins.profile(profile).base
    offered = base_ref(pinned, mirrors)
    found = _obtain(offered, client, pull, progress)
    if found is not None:
        return Base(offered, pinned, found, "pinned")
    made = pins.base_image.tag
    local = _local(made, client)
    if local is not None and made_allowed:
        progress(f"no registry answers: building on {made}")
        return Base(made, made, identity(local), "made")
    build = f"`invoke build-image --profile {profile}`"
    if pins.profile(profile).from_source and not made_allowed:
        hint = (
            "`invoke base-image` makes a base without a registry, and on it build "
            "`--profile cpu`, `--profile cuda-wheels` (both of wheels), "
            f"or this one: `--profile {profile} --cuda-from-wheels`"
        )
    elif local is not None:
        hint = f"{build} builds on {made}, which `invoke base-image` made"
    else:
        hint = (
            f"`sudo .venv/bin/invoke base-image` makes a base, {build} then builds on it; "
            "--base IMAGE takes one that is here"
        )
    raise UsageFault(f"the base image {pinned} is not here and no registry answers", hint=hint)


def require_cuda(base: Base, client: DockerClient, profile: str) -> None:
    """Refuse a base without CUDA's compiler before an hour has gone into it.

    NVIDIA's images say CUDA_VERSION in their environment. The profile's own base is taken at its
    word, and one that is not here yet cannot be asked.

    Raises:
        UsageFault: the base is here and says nothing of CUDA.
    """
    if base.origin == "pinned":
        return
    image = _local(base.ref, client)
    if image is None:
        return
    said = (image.attrs.get("Config") or {}).get("Env") or []
    if not any(entry.startswith("CUDA_VERSION=") for entry in said):
        raise UsageFault(
            f"the base image {base.ref} has no CUDA",
            hint=f"invoke build-image --profile {profile} --base {base.ref} --cuda-from-wheels",
        )


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
