"""The image to work in: the Dockerfile's target ``dev``, for one person and one profile."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import JobFailed
from bench.host import buildx, image, loopback, network
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Pins
from bench.host.recipe import BuildRequest
from bench.host.workplace.person import Person

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "gpt-frontend-dev"
# What .devcontainer/devcontainer.json names: the image that was asked for last.
CURRENT = f"{REPOSITORY}:work"
TARGET = "dev"
# What is in its /src/tvm: a commit, or nothing.
TREE_LABEL = f"{image.LABELS}.dev.tree"
# Options of the job image's build that decide what both have in common, so that its layers serve.
SHARED = ("--build-arg", "--build-context", "--cache-from")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Workplace:
    """An image to work in. ``tree`` is the commit of TVM in its /src/tvm, empty for none."""

    id: str
    tag: str
    tree: str
    built: bool


def ensure(
    request: BuildRequest,
    person: Person,
    pins: Pins,
    endpoint: Endpoint,
    client: DockerClient,
    progress: Progress,
    root: Path = image.ROOT,
) -> Workplace:
    """The image of a request, found or built, and tagged as the one to work in.

    The job's image comes first: it is held to its contract, and its layers are the beginning of
    this one.

    Raises:
        UsageFault, JobFailed: as building an image does.
    """
    job = image.plan(request, pins, client, made_base=True, progress=progress, root=root)
    tree = job.tvm.source.commit if job.tvm else ""
    digest = content(job.content_id, person, root)
    tag = f"{REPOSITORY}:{job.profile}-{person.uid}-{digest[: image.TAG_DIGITS]}"
    found = _find(client, tag, digest)
    if found is None:
        if image.find(job, client) is None:
            image.build(job, pins, endpoint, client, progress=progress)
        argv = command(job.argv, tag, {image.CONTENT_LABEL: digest, TREE_LABEL: tree}, person)
        _build(argv, request, endpoint, client, progress, root)
        found = _find(client, tag, digest)
        if found is None:
            raise JobFailed(
                f"buildx ended well, but the engine has no image {tag}",
                hint="is DOCKER_HOST the engine that buildx builds in? docker buildx ls",
            )
        built = True
    else:
        built = False
    client.images.get(found).tag(CURRENT)
    return Workplace(found, tag, tree, built)


def content(job: str, person: Person, root: Path) -> str:
    """What decides what is in it, in one number: the job's content id, the tools, the user."""
    tools = (root / "docker" / "locks" / "build.txt").read_bytes()
    decided = [job, hashlib.sha256(tools).hexdigest(), person.uid, person.gid]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()


def command(
    job: Sequence[str], tag: str, labels: dict[str, str], person: Person
) -> tuple[str, ...]:
    """The build's command, from that of the job's image."""
    argv = ["docker", "buildx", "build", "--builder", "default", "--progress", "plain", "--load"]
    argv += ["--provenance=false", "--sbom=false", "--file", "docker/Dockerfile"]
    argv += ["--target", TARGET, "--tag", tag]
    for key, value in labels.items():
        argv += ["--label", f"{key}={value}"]
    argv += _shared(job)
    argv += ["--build-arg", f"DEV_UID={person.uid}", "--build-arg", f"DEV_GID={person.gid}"]
    return (*argv, ".")


def _shared(job: Sequence[str]) -> Iterator[str]:
    for option, value in itertools.pairwise(job):
        if option in SHARED:
            yield from (option, value)


def _build(
    argv: Sequence[str],
    request: BuildRequest,
    endpoint: Endpoint,
    client: DockerClient,
    progress: Progress,
    root: Path,
) -> None:
    for_docker = endpoint.cli_environ(os.environ)
    buildx.check(for_docker)
    host, host_network = loopback.reachable(
        network.collect(os.environ, mirrors=request.mirrors), *image._gateway(endpoint, client)
    )
    more = {"jobs": str(request.jobs).encode()} if request.jobs is not None else {}
    with network.secret_files(host, more) as secrets:
        extra = ["--network", "host"] if host_network else []
        for name, path in secrets.items():
            extra += ["--secret", f"id={name},src={path}"]
        whole = [*argv[:-1], *extra, argv[-1]]
        buildx.run(whole, root, for_docker, progress, host.passwords)


def _find(client: DockerClient, tag: str, digest: str) -> str | None:
    from docker.errors import ImageNotFound

    try:
        found = client.images.get(tag)
    except ImageNotFound:
        return None
    return str(found.id) if found.labels.get(image.CONTENT_LABEL) == digest else None
