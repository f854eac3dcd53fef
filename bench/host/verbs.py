"""What each verb does, in a few lines: the pieces put together, and the words to the user."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import training
from bench.errors import BenchError, JobFailed, UsageFault
from bench.host import base_image as base_images
from bench.host import doctor as examination
from bench.host import (
    image,
    launch,
    mirrors,
    pins,
    promise,
    recipe,
    report,
    runs,
    toolchain,
    untrusted,
    verify,
)
from bench.host import images as built
from bench.host import mirror as mirrors_of
from bench.host.console import ERR, OUT, working
from bench.host.engine import docker, endpoint, local
from bench.host.jobs import print_run
from bench.host.lock import frozen
from bench.host.store import Store
from bench.host.supply import building

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = launch.ROOT
LOCKS = ROOT / "docker" / "locks"
MIB, GIB = 2**20, 2**30


def build_image(request: image.BuildRequest, *, dry_run: bool) -> None:
    """Build the image of a profile, or find it, and say which."""
    pinned = pins.load()
    # What cannot work is refused on a machine without an engine too.
    name = request.profile or pinned.defaults.build_profile
    wanted = recipe.toolchain_of(request, name, pinned, request.base)
    toolchain.check(wanted)
    for line in toolchain.notes(wanted):
        ERR.print(line, style="dim", markup=False, soft_wrap=True)
    if request.frozen:
        frozen.check_request(request, pinned, LOCKS)
    where = endpoint.find_endpoint(os.environ)
    client = endpoint.connect(where, os.environ)
    with working("image") as say:
        planned = image.plan(request, pinned, client, pull=not dry_run, progress=say)
        found = None if request.no_cache else image.find(planned, client)
    if request.frozen:
        for line in frozen.check_plan(planned, client, LOCKS):
            ERR.print(line, style="dim", markup=False, soft_wrap=True)
    if dry_run:
        OUT.print(planned.command, markup=False, soft_wrap=True)
        state = "is there already" if found else "would be built"
        OUT.print(f"{planned.tag} {state}", markup=False, soft_wrap=True)
        return
    if found is None:
        with working(f"building {planned.tag}") as say:
            found = building.build(planned, pinned, where, client, progress=say)
    if request.frozen:
        for line in frozen.check_packages(client, found.tag, planned, LOCKS):
            ERR.print(line, style="dim", markup=False, soft_wrap=True)
    word = "built" if found.built else "found, unchanged"
    OUT.print(f"{found.tag} {word} ({found.digest or found.id})", markup=False, soft_wrap=True)


def verify_image(reference: str | None, *, as_json: bool) -> None:
    """Hold an image to its contract; print and keep what was found.

    Raises:
        UsageFault: there is no such image, or it is none of ours.
        JobFailed: it breaks its contract.
    """
    pinned = pins.load()
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors():
        found = built.newest(client) if reference is None else built.named(client, reference)
    expected = promise.of_labels(found.labels, pinned)
    with working(f"asking {found.tag}") as say:
        record = verify.verify(client, found.tag, expected, say)
    path = verify.write(record)
    if as_json:
        print(record.model_dump_json(indent=2))
    else:
        OUT.print(verify.table(record))
        OUT.print(verify.summary(record), markup=False, soft_wrap=True)
        OUT.print(f"kept in {path}", markup=False, soft_wrap=True)
    _note_packages(client, found)
    verify.demand(record)


def _note_packages(client: DockerClient, found: image.Image) -> None:
    """Say where an image has other Debian packages than the lock: no failure by itself."""
    profile, base = (found.labels.get(f"{image.LABELS}.{key}", "") for key in ("profile", "base"))
    with endpoint.engine_errors():
        said = frozen.compared(client, client.images.get(found.id), profile, base, LOCKS)
    if said is not None:
        ERR.print(f"other Debian packages than the lock: {said}", markup=False, soft_wrap=True)


def matrix(
    *, tvm: str | None, gpu: str | None, cuda: str | None, driver: str | None, as_json: bool
) -> None:
    """Print which versions fit together, the project's profiles first."""
    pinned, tables = pins.load(), toolchain.load_tables()
    profiles = {name: toolchain.of_profile(pinned, name) for name in pinned.profiles}
    wanted = {"tvm": tvm, "gpu": gpu, "cuda": cuda, "driver": driver}
    if as_json:
        print(json.dumps(toolchain.as_data(tables, profiles, **wanted), indent=2))
    else:
        OUT.print(toolchain.matrix(tables, profiles, **wanted))


def mirror(into: str | None, tvm: str | None, mirror: Sequence[str]) -> None:
    """Make or update local mirrors of TVM's repositories, and say how a build takes them."""
    pinned = pins.load()
    names = [tvm.removeprefix("v")] if tvm else list(pinned.sources)
    for name in names:
        if name not in pinned.sources:
            known = ", ".join(pinned.sources)
            raise UsageFault(f"no TVM {name} in docker/pins.toml", hint=f"one of: {known}")
    sources = [(pinned.sources[name].url, pinned.sources[name].commit) for name in names]
    folder = Path(into) if into else mirrors_of.default_folder(os.environ)
    with working("mirror") as say:
        found = mirrors_of.update(sources, folder, say, mirrors=mirrors.load(mirror, os.environ))
    for one in found:
        OUT.print(f"{one.state}: {one.url}", markup=False, soft_wrap=True)
    hint = f"invoke build-image --mirror-folder {folder}"
    OUT.print(f"{len(found)} repositories in {folder}: {hint}", markup=False, soft_wrap=True)


def base_image(suite: str | None) -> None:
    """Make the base image for machines without a registry."""
    with working("base image") as say:
        made = base_images.make(endpoint.find_endpoint(os.environ), suite, say)
    OUT.print(f"{made}: `invoke build-image --profile cpu` builds on it", markup=False)


def show_run(run: str, out: Path) -> None:
    """Print one run in full."""
    path = runs.find(out, run)
    record = runs.read_record(path / runs.RECORD)
    print_run(record)
    for key, value in report.environment(record):
        OUT.print(f"  {key}: {report.plain(value)}", markup=False, soft_wrap=True)
    last = report.plain(f"{record.status}: {record.reason or path}")
    OUT.print(last, markup=False, soft_wrap=True)


def doctor(profile: str | None, *, as_json: bool) -> None:
    """Print the findings.

    Raises:
        JobFailed: something blocks even the local engine.
    """
    with working("doctor"):
        findings = examination.examine(profile)
    if as_json:
        print(json.dumps(examination.as_data(findings), indent=2))
    else:
        OUT.print(examination.table(findings))
    blocking = [finding for finding in findings if finding.level == "blocks"]
    if blocking:
        names = ", ".join(finding.check for finding in blocking)
        what = f"{profile} cannot be built here" if profile else "jobs cannot run here"
        raise JobFailed(f"{what}: {names}", hint=blocking[0].remedy)


def clean(out: Path, *, images: bool, tuning: bool = False) -> None:
    """Remove what can be made again; results stay, and without ``tuning`` what tuning found.

    Jobs whose host was killed are ended first: they would go on in what is removed.

    Raises:
        JobFailed: one of them cannot be ended. The store and the cut runs, which it may be using,
            are left; what an engine has of ours is removed.
    """
    going_on = None
    try:
        for pid in local.end_abandoned():
            OUT.print(f"ended: process {pid}, of a job whose host was killed", markup=False)
    except JobFailed as error:
        going_on = error
    else:
        _clean_here(out, tuning)
    try:
        client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    except BenchError:
        pass  # no engine: nothing of ours can be in it
    else:
        with endpoint.engine_errors():
            _clean_engine(client, images)
    if going_on is not None:
        raise going_on


def _clean_here(out: Path, tuning: bool) -> None:
    store = Store.of(os.environ)
    freed = store.clear()
    OUT.print(f"artefact store: {freed / GIB:.2f} GiB freed")
    if tuning:
        OUT.print(f"tuning databases: {store.clear_tuning() / MIB:.1f} MiB freed")
    elif store.tuning_bytes():
        kept = f"tuning databases kept: {store.tuning_bytes() / MIB:.1f} MiB; invoke clean --tuning"
        OUT.print(kept)
    for path in runs.stale(out):
        untrusted.settle(path)
        if training.settle(path) is not None:
            kept = f"kept, for its checkpoint: invoke train --resume {path}"
            OUT.print(kept, markup=False, soft_wrap=True)
            continue
        runs.remove_stale(path)
        OUT.print(f"abandoned run removed: {path.name}", markup=False)


def _clean_engine(client: DockerClient, images: bool) -> None:
    for name in docker.remove_abandoned(client):
        OUT.print(f"container removed: {name}", markup=False)
    if images:
        for tag in built.remove_all(client):
            OUT.print(f"image removed: {tag}", markup=False)
