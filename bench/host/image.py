"""The image that jobs run in: planned from the pins, found by its content id, or built."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import JobFailed, UsageFault
from bench.host import (
    bases,
    buildx,
    content,
    git,
    known_hosts,
    loopback,
    network,
    promise,
    recipe,
    toolchain,
    verify,
)
from bench.host.bases import Base
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Pins
from bench.host.recipe import BuildRequest as BuildRequest
from bench.host.recipe import TvmBuild

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
# What is at the end of a tag until the image's contract has been checked.
CANDIDATE = "-unverified"
# And of what was built once more, to be compared.
REBUILT = "-rebuilt"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BuildPlan:
    """One build, whole but for the secrets: ``argv`` runs in ``root``.

    It makes ``candidate``, which becomes ``tag`` when the image has kept its contract.
    """

    argv: tuple[str, ...]
    root: Path
    tag: str
    content_id: str
    labels: Mapping[str, str]
    base: Base
    request: BuildRequest
    profile: str
    tvm: TvmBuild | None

    @property
    def candidate(self) -> str:
        """What the image is called until its contract has been checked, or it is compared."""
        return f"{self.tag}{_suffix(self.request)}"

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
        UsageFault: unknown profile, no such wheelhouse, parts that do not fit together, or no
            base to be had.
    """
    environ = os.environ if environ is None else environ
    name = request.profile or pins.defaults.build_profile
    profile = pins.profile(name)
    wheelhouse = find_wheelhouse(request.wheelhouse, profile.torch, pins, environ)
    toolchain.check(recipe.toolchain_of(request, name, pins, request.base))
    tvm = recipe.tvm_build(request, profile, pins, environ)
    base = bases.resolve(
        request.base,
        name,
        pins,
        client,
        made_allowed=made_base or request.profile is not None,
        pull=pull,
        progress=progress,
        mirrors=request.mirrors,
    )
    if base.origin == "made":
        toolchain.check(recipe.toolchain_of(request, name, pins, base.ref))
    if tvm is not None and tvm.cuda_from == "base":
        bases.require_cuda(base, client, name)
    private = private_commit(request, environ)
    versions = pins.resolved(name)
    if tvm is not None:
        # Another commit than a locked one has a version of its own, which nobody promises.
        versions["tvm"] = "" if tvm.own_gitlinks else tvm.version
        versions["tvm_ffi"] = tvm.source.tvm_ffi
    labels = {
        **{f"{LABELS}.pin.{key}": value for key, value in versions.items()},
        **{f"{LABELS}.build.{key}": value for key, value in (tvm.labels if tvm else {}).items()},
        f"{LABELS}.profile": name,
        f"{LABELS}.base": base.name,
        f"{LABELS}.base-id": base.id,
        "org.opencontainers.image.title": REPOSITORY,
        "org.opencontainers.image.version": project_version(root),
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    if private:
        labels[f"{LABELS}.private-commit"] = private
    locks = content.lock_files(profile, tvm)
    arguments = {
        **recipe.NO_TVM_BUILD,
        **(tvm.arguments if tvm else {}),
        "BASE": base.ref,
        "TORCH": profile.torch,
        "TVM_FROM": "source" if tvm else "wheel",
        "TVM_LOCK": f"tvm-{tvm.version}.txt" if tvm else "tvm.txt",
        "PIN_TVM": versions["tvm"],
        "PIN_TVM_FFI": versions["tvm_ffi"],
        "PIN_TORCH": versions["torch"],
        "CLONE_FROM": "repo" if private else "none",
        "CLONE_URL": request.private_repo or "",
        "CLONE_REF": request.private_ref or "HEAD",
        "CLONE_COMMIT": private or "",
        "SOURCE_DATE_EPOCH": str(
            tvm.source.source_date_epoch if tvm else pins.defaults.source_date_epoch
        ),
    }
    # By its public name: a mirror of it is the same base. A ref is what its commit is.
    named = {**arguments, "BASE": base.name, "CLONE_REF": ""}
    digest = content.content_id(root, locks, tvm is not None, labels, named)
    labels[CONTENT_LABEL] = digest
    tag = f"{REPOSITORY}:{name}-{digest[:TAG_DIGITS]}"
    argv = ["docker", "buildx", "build", "--builder", "default", "--progress", "plain", "--load"]
    # Attestations would make the result an index of two manifests, with a date in one.
    argv += ["--provenance=false", "--sbom=false", "--file", "docker/Dockerfile"]
    argv += ["--tag", f"{tag}{_suffix(request)}"]
    for key, value in sorted(labels.items()):
        argv += ["--label", f"{key}={value}"]
    for key, value in arguments.items():
        argv += ["--build-arg", f"{key}={value}"]
    for context, folder in (("wheelhouse", wheelhouse), ("mirror", request.mirror_folder)):
        if folder is not None:
            argv += ["--build-context", f"{context}={folder}"]
    for option, values in (("--cache-from", request.cache_from), ("--cache-to", request.cache_to)):
        for value in values:
            argv += [option, value]
    if request.ssh:
        argv += ["--ssh", request.ssh]
    if request.no_cache or request.again:
        argv.append("--no-cache")
    return BuildPlan((*argv, "."), root, tag, digest, labels, base, request, name, tvm)


def _suffix(request: BuildRequest) -> str:
    return REBUILT if request.again else CANDIDATE


def private_commit(request: BuildRequest, environ: Mapping[str, str]) -> str | None:
    """The commit of the private repository that goes into the image; None where none does.

    Raises:
        UsageFault: no ssh agent was named for it, or the repository does not answer.
    """
    if request.private_repo is None:
        if request.private_ref is not None:
            raise UsageFault("--private-ref needs --private-repo", hint="name the repository")
        return None
    if request.ssh is None:
        raise UsageFault(
            "a private repository is reached with your ssh agent, and none was named",
            hint="add --ssh default; `ssh-add -l` must list a key that the repository accepts",
        )
    with known_hosts.ssh_environment(request.private_repo, environ) as told:
        return git.resolve(request.private_repo, request.private_ref or "HEAD", told)


def find(plan: BuildPlan, client: DockerClient, tag: str | None = None) -> Image | None:
    """The image of a plan, if it has been built: told by its tag and its content label."""
    from docker.errors import ImageNotFound

    try:
        image = client.images.get(tag or plan.tag)
    except ImageNotFound:
        return None
    if image.labels.get(CONTENT_LABEL) != plan.content_id:
        return None
    digests: list[str] = image.attrs.get("RepoDigests") or []
    digest = digests[0].partition("@")[2] if digests else None
    return Image(str(image.id), digest, tag or plan.tag, dict(image.labels), built=False)


def build(
    plan: BuildPlan,
    pins: Pins,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    environ: Mapping[str, str] | None = None,
    folder: Path = verify.FOLDER,
) -> Image:
    """Build a plan, whether its image is there or not, and check the image's contract.

    Raises:
        UsageFault: there is no buildx.
        JobFailed: the build failed, or the image does not keep its contract: it stays, under the
            candidate's tag, to be looked at.
        KeyboardInterrupt: interrupted; the build is stopped and nothing has its tag.
    """
    image = make(plan, endpoint, client, progress=progress, environ=environ)
    progress("checking the contract")
    expected = promise.of_labels(plan.labels, pins)
    record = verify.verify(client, plan.candidate, expected, progress, folder=folder, tag=plan.tag)
    verify.write(record, folder)
    verify.demand(record)
    client.images.get(plan.candidate).tag(plan.tag)
    client.images.remove(plan.candidate)
    return Image(image.id, image.digest, plan.tag, image.labels, built=True)


def make(
    plan: BuildPlan,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    environ: Mapping[str, str] | None = None,
) -> Image:
    """Build a plan under its candidate's tag, and ask nothing of the image.

    Raises:
        UsageFault, JobFailed, KeyboardInterrupt: as ``build``, the contract apart.
    """
    environ = os.environ if environ is None else environ
    for_docker = endpoint.cli_environ(environ)
    buildx.check(for_docker)
    host, host_network = loopback.reachable(
        network.collect(environ, mirrors=plan.request.mirrors), *_gateway(endpoint, client)
    )
    more = _more_secrets(plan.request, environ)
    with network.secret_files(host, more) as secrets:
        extra = ["--network", "host"] if host_network else []
        for name, path in secrets.items():
            extra += ["--secret", f"id={name},src={path}"]
        argv = [*plan.argv[:-1], *extra, plan.argv[-1]]
        buildx.run(argv, plan.root, for_docker, progress, host.passwords)
    image = find(plan, client, plan.candidate)
    if image is None:
        raise JobFailed(
            f"buildx ended well, but the engine has no image {plan.candidate}",
            hint="is DOCKER_HOST the engine that buildx builds in? docker buildx ls",
        )
    return image


def _gateway(endpoint: Endpoint, client: DockerClient) -> tuple[str | None, bool]:
    """(this machine's address as a build sees it, whether the engine runs on this machine)."""
    from docker.errors import APIError

    info = client.info()
    if "Docker Desktop" in str(info.get("OperatingSystem", "")):
        return loopback.DESKTOP_GATEWAY, False
    # The network of a rootless engine is its own, its 127.0.0.1 too.
    rootless = "name=rootless" in (info.get("SecurityOptions") or [])
    try:
        settings = client.networks.get("bridge").attrs["IPAM"]["Config"] or []
    except APIError:  # an engine may run without a bridge
        settings = []
    gateway = next((one["Gateway"] for one in settings if one.get("Gateway")), None)
    return gateway, endpoint.url.startswith("unix://") and not rootless


def _more_secrets(request: BuildRequest, environ: Mapping[str, str]) -> dict[str, bytes]:
    """What a build is told beside the network's settings, without entering any cache key."""
    found = {}
    if request.jobs is not None:
        found["jobs"] = str(request.jobs).encode()
    if request.again:
        found["fresh"] = b"1"
    if request.private_repo is not None:
        found["known_hosts"] = known_hosts.for_repository(request.private_repo, environ).encode()
    return found


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
    return found or build(wanted, pins, endpoint, client, progress=progress, environ=environ)


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
