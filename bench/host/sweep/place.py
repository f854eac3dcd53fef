"""Where a sweep's cells run, and how a record is told to be of the same content and machine."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import limits
from bench.errors import BenchError, UsageFault
from bench.host import choose, image, launch, local_content
from bench.host.choose import Choice
from bench.host.engine import endpoint
from bench.host.pins import Pins
from bench.host.sweep.matrix import Cell
from bench.record import RunRecord

Key = tuple[str | None, str]  # the profile, and the device

_CONTENT_UNKNOWN = ""  # no record is of it


@dataclass(frozen=True)
class Where:
    """What a cell would be measured on now. None is what cannot be told from outside a job."""

    content: str
    in_image: bool
    cpu: str
    cores: int | None
    gpu: str | None = None
    driver: str | None = None

    def is_content_of(self, record: RunRecord) -> bool:
        """Whether ``record`` is of the same code, locks and, of a local job, packages."""
        if self.in_image:
            labels = record.image.labels if record.image else {}
            return labels.get(image.CONTENT_LABEL) == self.content
        if record.image is not None or record.content != self.content:
            return False
        packages = record.environment.packages if record.environment else {}
        return all(_version(name) == version for name, version in packages.items())

    def is_machine_of(self, record: RunRecord) -> bool:
        """Whether ``record`` is from this machine, as far as it concerns its device."""
        seen = record.environment
        if seen is None:
            return False
        told: list[tuple[Any, Any]] = [(self.cpu, seen.cpu), (self.cores, seen.cores)]
        if record.spec.device == "cuda":
            told += [(self.gpu, seen.gpu), (self.driver, seen.driver)]
        return all(now is None or now == then for now, then in told)


@dataclass(frozen=True)
class Spot:
    """An engine with its image, and what is measured there. Without a choice: a dry run."""

    where: Where
    why: str
    choice: Choice | None = None


def key_of(cell: Cell) -> Key:
    return cell.profile, cell.spec.device


def prepare(
    cells: Iterable[Cell], engine: str, pins: Pins, cpus: float | None = None
) -> dict[Key, Spot]:
    """The spot of every cell, its image built where it is not there.

    ``cpus`` is how many cores' worth of time a container gets, where that is limited.

    All are chosen before anything is measured, so that no cell waits for a build and no sweep
    falls from one engine to another halfway.

    Raises:
        UsageFault, JobFailed: as ``choose.choose``; or a profile is named that no image is of.
    """
    spots: dict[Key, Spot] = {}
    for key in dict.fromkeys(map(key_of, cells)):
        profile, device = key
        _demand_engine_for(profile, engine)
        chosen = choose.choose(engine, profile, None, device == "cuda", pins)
        if profile is not None and chosen.image is None:
            raise _no_image(profile, chosen.why)
        content = chosen.image.labels.get(image.CONTENT_LABEL) if chosen.image else None
        where = _where(content, device, cpus, in_image=chosen.image is not None)
        spots[key] = Spot(where, f"{chosen.engine.name}: {chosen.why}", chosen)
    _demand_one_engine(spots)
    return spots


def preview(
    cells: Iterable[Cell], engine: str, pins: Pins, cpus: float | None = None
) -> dict[Key, Spot]:
    """The same for a dry run: nothing is built, pulled or started.

    Raises:
        UsageFault: as ``prepare``.
    """
    spots: dict[Key, Spot] = {}
    for key in dict.fromkeys(map(key_of, cells)):
        profile, device = key
        _demand_engine_for(profile, engine)
        spots[key] = _previewed(profile, device, engine, pins, cpus)
    _demand_one_engine(spots)
    return spots


def _previewed(
    profile: str | None, device: str, engine: str, pins: Pins, cpus: float | None
) -> Spot:
    defaults = pins.defaults
    name = profile or (defaults.gpu_profile if device == "cuda" else defaults.profile)
    pins.profile(name)
    if engine != "local":
        try:
            with endpoint.engine_errors():
                client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
                request = image.BuildRequest(profile=name)
                planned = image.plan(request, pins, client, made_base=True, pull=False)
                there = image.find(planned, client) is not None
            where = _where(planned.content_id, device, cpus, in_image=True)
            state = "" if there else ", which would be built"
            return Spot(where, f"docker: image {planned.tag}{state}")
        except BenchError as error:
            if engine == "docker" or profile is not None or device == "cuda":
                raise
            why = f"no container can be had: {error.message}"
    else:
        why = "as asked"
    return Spot(_where(None, device, cpus, in_image=False), f"local: {why}")


def _demand_engine_for(profile: str | None, engine: str) -> None:
    if profile is not None and engine == "local":
        raise _no_image(profile, "the engine is local")


def _no_image(profile: str, why: str) -> UsageFault:
    return UsageFault(
        f"the sweep names the profile {profile}, and runs in no image ({why})",
        hint="profiles are of images: start a Docker engine, or leave profile out",
    )


def _demand_one_engine(spots: Mapping[Key, Spot]) -> None:
    if len({spot.where.in_image for spot in spots.values()}) > 1:
        told = "; ".join(dict.fromkeys(spot.why for spot in spots.values()))
        raise UsageFault(
            f"the cells would not run on one engine: {told}", hint="name it: --engine docker"
        )


def _where(content: str | None, device: str, cpus: float | None, *, in_image: bool) -> Where:
    known = content if in_image else local_content.of(launch.ROOT)
    where = Where(
        content=known or _CONTENT_UNKNOWN,
        in_image=in_image,
        cpu=_cpu(),
        cores=_engine_cores(cpus) if in_image else limits.available_cores(),
    )
    if device != "cuda":
        return where
    gpu, driver = _gpu()
    return replace(where, gpu=gpu, driver=driver)


def _engine_cores(cpus: float | None) -> int | None:
    """How many cores a container of ours sees: the engine's, or what it is limited to."""
    with endpoint.engine_errors():
        client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
        count = client.info().get("NCPU")
    if not isinstance(count, int) or count < 1:
        return None
    return count if cpus is None else min(count, math.ceil(cpus))


# These two ask as the job does (bench/job/environment.py), which the host does not import; a test
# holds them to the same answers.
def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _gpu() -> tuple[str | None, str | None]:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/lib/wsl/lib"])
    program = shutil.which("nvidia-smi", path=path)
    query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            [program or "nvidia-smi", *query],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    rows = [line.rsplit(",", 1) for line in done.stdout.strip().splitlines() if "," in line]
    if not rows:
        return None, None
    return "; ".join(name.strip() for name, _ in rows), rows[0][1].strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
