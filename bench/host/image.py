"""The image that jobs run in: planned from the pins, found by its content id, or built."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import JobFailed, UsageFault
from bench.host import bases, buildx, network
from bench.host.bases import Base
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Pins

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "gpt-frontend"
LABELS = "io.gpt-frontend"
CONTENT_LABEL = f"{LABELS}.content-id"
# So much of the content id is in the tag; the label has all of it.
TAG_DIGITS = 12

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for; None where nothing was said."""

    profile: str | None = None
    base: str | None = None
    wheelhouse: Path | None = None
    no_cache: bool = False


@dataclass(frozen=True)
class BuildPlan:
    """One build, whole but for the secrets: ``argv`` runs in ``root``."""

    argv: tuple[str, ...]
    root: Path
    tag: str
    content_id: str
    labels: Mapping[str, str]
    base: Base
    no_cache: bool

    @property
    def command(self) -> str:
        """The command as one would type it, for --dry-run."""
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Image:
    """An image in the engine. ``built`` tells whether this call built it or found it."""

    id: str
    digest: str | None
    tag: str
    labels: Mapping[str, str]
    built: bool


def plan(
    request: BuildRequest,
    pins: Pins,
    client: DockerClient,
    *,
    made_base: bool = False,
    pull: bool = True,
    progress: Progress = lambda _: None,
    root: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> BuildPlan:
    """Work out a build. Changes nothing, but pulls an absent base where ``pull`` is set.

    ``made_base`` lets the image that `invoke base-image` made stand in for the profile's own; a
    profile that the user named allows it too.

    Raises:
        UsageFault: unknown profile, no such wheelhouse, or no base to be had.
    """
    environ = os.environ if environ is None else environ
    name = request.profile or pins.defaults.profile
    profile = pins.profile(name)
    wheelhouse = find_wheelhouse(request.wheelhouse, profile.torch, pins, environ)
    base = bases.resolve(
        request.base,
        name,
        pins,
        client,
        made_allowed=made_base or request.profile is not None,
        pull=pull,
        progress=progress,
    )
    resolved = pins.resolved(name)
    labels = {
        **{f"{LABELS}.pin.{key}": value for key, value in resolved.items()},
        f"{LABELS}.profile": name,
        f"{LABELS}.base": base.ref,
        f"{LABELS}.base-id": base.id,
        "org.opencontainers.image.title": REPOSITORY,
        "org.opencontainers.image.version": project_version(root),
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    content = content_id(root, profile.torch, labels)
    labels[CONTENT_LABEL] = content
    tag = f"{REPOSITORY}:{name}-{content[:TAG_DIGITS]}"
    arguments = {
        "BASE": base.ref,
        "TORCH": profile.torch,
        **{f"PIN_{key.upper()}": value for key, value in pins.versions.model_dump().items()},
    }
    argv = ["docker", "buildx", "build", "--builder", "default", "--progress", "plain", "--load"]
    # Attestations would make the result an index of two manifests, with a date in one.
    argv += ["--provenance=false", "--sbom=false", "--file", "docker/Dockerfile", "--tag", tag]
    for key, value in sorted(labels.items()):
        argv += ["--label", f"{key}={value}"]
    for key, value in arguments.items():
        argv += ["--build-arg", f"{key}={value}"]
    if wheelhouse is not None:
        argv += ["--build-context", f"wheelhouse={wheelhouse}"]
    if request.no_cache:
        argv.append("--no-cache")
    return BuildPlan((*argv, "."), root, tag, content, labels, base, request.no_cache)


def find(plan: BuildPlan, client: DockerClient) -> Image | None:
    """The image of a plan, if it has been built: told by its tag and its content label."""
    from docker.errors import ImageNotFound

    try:
        image = client.images.get(plan.tag)
    except ImageNotFound:
        return None
    if image.labels.get(CONTENT_LABEL) != plan.content_id:
        return None
    digests: list[str] = image.attrs.get("RepoDigests") or []
    digest = digests[0].partition("@")[2] if digests else None
    return Image(str(image.id), digest, plan.tag, dict(image.labels), built=False)


def build(
    plan: BuildPlan,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    environ: Mapping[str, str] | None = None,
) -> Image:
    """Build a plan, whether its image is there or not.

    Raises:
        UsageFault: there is no buildx.
        JobFailed: the build failed.
        KeyboardInterrupt: interrupted; the build is stopped and nothing is tagged.
    """
    environ = os.environ if environ is None else environ
    for_docker = endpoint.cli_environ(environ)
    buildx.check(for_docker)
    host = network.collect(environ)
    with network.secret_files(host) as secrets:
        extra = ["--network", "host"] if host.on_loopback else []
        for name, path in secrets.items():
            extra += ["--secret", f"id={name},src={path}"]
        argv = [*plan.argv[:-1], *extra, plan.argv[-1]]
        buildx.run(argv, plan.root, for_docker, progress, host.passwords)
    image = find(plan, client)
    if image is None:
        raise JobFailed(
            f"buildx ended well, but the engine has no image {plan.tag}",
            hint="is DOCKER_HOST the engine that buildx builds in? docker buildx ls",
        )
    return Image(image.id, image.digest, image.tag, image.labels, built=True)


def ensure(
    request: BuildRequest,
    pins: Pins,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    made_base: bool = False,
    progress: Progress = lambda _: None,
    root: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> Image:
    """The image of a request: found where nothing has changed, else built. Raises as those do."""
    wanted = plan(
        request, pins, client, made_base=made_base, progress=progress, root=root, environ=environ
    )
    found = None if request.no_cache else find(wanted, client)
    return found or build(wanted, endpoint, client, progress=progress, environ=environ)


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


def inputs(root: Path, torch: str) -> Iterator[Path]:
    """Every file of the project that goes into an image, in a fixed order."""
    yield root / "docker" / "Dockerfile"
    yield root / ".dockerignore"
    for lock in ("requirements", "torch", "torch-cpu-hashes", *["torch-cuda"] * (torch == "cuda")):
        yield root / "docker" / "locks" / f"{lock}.txt"
    yield root / "bench" / "host" / "venv.py"
    yield from sorted((root / "bench").glob("*.py"))
    for path in sorted((root / "bench" / "job").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path


def content_id(root: Path, torch: str, labels: Mapping[str, str]) -> str:
    """sha256 over all that decides what is in an image: files with their modes, pins, base."""
    entries = []
    for path in inputs(root, torch):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageFault(f"cannot read {path}: {error}", hint="git checkout docker/") from error
        # The image's modes are u=rwX,go=rX, so that only this bit of the checkout's counts.
        executable = bool(path.stat().st_mode & 0o100)
        digest = hashlib.sha256(content).hexdigest()
        entries.append([path.relative_to(root).as_posix(), executable, digest])
    text = json.dumps({"files": entries, "labels": dict(sorted(labels.items()))})
    return hashlib.sha256(text.encode()).hexdigest()


def find_wheelhouse(
    named: Path | None, torch: str, pins: Pins, environ: Mapping[str, str]
) -> Path | None:
    """The folder of wheels to offer to a build: the named one, else PIP_FIND_LINKS's.

    The latter only if it holds torch's CPU build: for anything else the index does as well.

    Raises:
        UsageFault: the named one is not a directory.
    """
    if named is not None:
        if not named.is_dir():
            raise UsageFault(
                f"--wheelhouse {named} is not a directory", hint="name a folder of .whl files"
            )
        return named.resolve()
    if torch != "cpu":
        return None
    for word in environ.get("PIP_FIND_LINKS", "").split():
        folder = Path(word.removeprefix("file://"))
        if any(folder.glob(f"torch-{pins.versions.torch}+cpu-*.whl")):
            return folder.resolve()
    return None


def project_version(root: Path) -> str:
    """The project's own version, from pyproject.toml."""
    with (root / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
