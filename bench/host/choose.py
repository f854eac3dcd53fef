"""Which engine runs a job, and in which image; and why, in words."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import BenchError, UsageFault
from bench.host import image, images, promise
from bench.host.console import working
from bench.host.engine import docker, endpoint
from bench.host.engine.base import Engine
from bench.host.engine.local import LocalEngine
from bench.host.pins import Pins
from bench.host.supply import building
from bench.record import ImageRef

if TYPE_CHECKING:
    from docker import DockerClient

ENGINES = ("auto", "docker", "local")


@dataclass(frozen=True)
class Choice:
    """An engine ready to run, the image it uses (None: the host's environment), and why."""

    engine: Engine
    image: ImageRef | None
    why: str


def choose(
    engine: str,
    profile: str | None,
    base: str | None,
    gpu: bool,
    pins: Pins,
    named: str | None = None,
) -> Choice:
    """The engine for a job.

    ``auto`` is docker where an engine answers and the image exists or can be built, else
    local. With ``gpu`` nothing is ever replaced by local or by a CPU, and where an image is
    ``named`` (a tag or an id) it is that one or none.

    Raises:
        UsageFault: no such engine or profile, no engine answers, the image cannot be had, or
            there is no GPU.
        JobFailed: the image's build failed.
    """
    if engine not in ENGINES:
        raise UsageFault(f"unknown engine '{engine}'", hint=f"choose one of: {', '.join(ENGINES)}")
    if named is not None and (profile or base or engine == "local"):
        raise UsageFault(
            "--image names the whole image", hint="leave --profile, --base and --engine local out"
        )
    name = profile or (pins.defaults.gpu_profile if gpu else pins.defaults.profile)
    wanted = pins.profile(name)
    if gpu and wanted.device != "cuda" and named is None:
        raise UsageFault(
            f"profile '{name}' has no CUDA",
            hint=f"--gpu goes with --profile {pins.defaults.gpu_profile}",
        )
    if engine == "local":
        if gpu:
            _require_local_gpu()
        return _local("as asked")
    try:
        with endpoint.engine_errors():
            return _docker(name, base, gpu, pins, named)
    except BenchError as error:
        if engine == "docker" or gpu or named is not None:
            raise
        return _local(f"no container can be had: {error.message}")


def _docker(profile: str, base: str | None, gpu: bool, pins: Pins, named: str | None) -> Choice:
    where = endpoint.find_endpoint(os.environ)
    client = endpoint.connect(where, os.environ)
    if gpu:
        refusal = docker.gpu_refusal(client)
        if refusal is not None:  # before an image of several GB is built for nothing
            raise docker.no_gpu(refusal)
    if named is not None:
        found = images.named(client, named)
        if found.tag.endswith(image.CANDIDATE):
            raise UsageFault(
                f"{found.tag} has not kept its contract",
                hint=f"invoke verify-image --image {named}",
            )
        promise.of_labels(found.labels, pins)  # refuses one that is none of ours
        reference = ImageRef(id=found.id, digest=None, tag=found.tag, labels=dict(found.labels))
    else:
        reference = ensure_image(profile, base, where, client, pins)
    why = f"engine at {where.url} ({where.source}), image {reference.tag}"
    dead = docker.remove_abandoned(client)
    if dead:
        why += f"; removed what killed runs had left: {', '.join(dead)}"
    return Choice(docker.DockerEngine(client, reference.id), reference, why)


def ensure_image(
    profile: str,
    base: str | None,
    where: endpoint.Endpoint,
    client: DockerClient,
    pins: Pins,
) -> ImageRef:
    """The image of ``profile`` as the project is now, built where it is not there.

    Raises:
        UsageFault: unknown profile, or nothing to build it from.
        JobFailed: the build failed.
    """
    request = image.BuildRequest(profile=profile, base=base)
    with working(f"image {profile}") as say:
        found = building.ensure(request, pins, where, client, made_base=True, progress=say)
    return ImageRef(id=found.id, digest=found.digest, tag=found.tag, labels=dict(found.labels))


def _require_local_gpu() -> None:
    # WSL2 keeps the driver's programs here, and not every shell has it on its PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/lib/wsl/lib"])
    program = shutil.which("nvidia-smi", path=path)
    done = subprocess.run([program, "-L"], capture_output=True, text=True) if program else None
    if done is None or done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split()) if done else "no nvidia-smi"
        raise UsageFault(
            f"this machine has no GPU to give: {said}",
            hint="install the NVIDIA driver, or leave --gpu out",
        )


def _local(why: str) -> Choice:
    return Choice(LocalEngine(), None, f"{why}; the job runs in this environment")
