"""What `invoke rerun` does: the pieces put together, and the words to the user."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import JobFailed, UsageFault
from bench.host import choose, jobs, launch, local_content, pins, runs
from bench.host.console import ERR, OUT, working
from bench.host.engine import docker, endpoint, limits
from bench.host.engine.base import Engine
from bench.host.engine.local import LocalEngine
from bench.host.history import verdicts
from bench.host.image import LABELS
from bench.host.report import plain
from bench.host.store import Store
from bench.host.supply import archive as archives
from bench.host.supply import carry, obtain, rebuild, registry
from bench.host.supply import rerun as rerunning
from bench.record import ImageRef, RunRecord

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = launch.ROOT
ALLOWED = ("image",)


def rerun(
    named: str,
    out: Path,
    *,
    weights: str | None,
    archive: Path | None,
    place: str | None,
    allow: Sequence[str],
    bounds: str | None,
    as_json: bool,
) -> None:
    """Repeat a recorded benchmark in its own image, and say how it compares.

    Raises:
        UsageFault: the run cannot be repeated, or its image cannot be had.
        JobFailed: it ran and failed, or a backend's parity is lost; the new run is kept.
    """
    unknown = sorted(set(allow) - set(ALLOWED))
    if unknown:
        raise UsageFault(
            f"--allow {', '.join(unknown)}: there is no such key", hint="--allow image"
        )
    base = rerunning.record_of(named, out)
    spec = rerunning.spec_of(base)
    inputs = rerunning.inputs_of(spec, weights, out, dict(os.environ))
    most = limits.load(bounds, os.environ)
    store = Store.of(os.environ)
    runs.check_writable(out, spec)
    if (archive or place) and base.image is None:
        raise UsageFault(
            f"{base.run_id} ran in no image that could be brought",
            hint="leave --archive and --registry out: it is repeated in this environment",
        )
    if place is not None:
        registry.repository(place)
    engine, got, content = _place(base, spec.device == "cuda", "image" in allow, archive, place)
    store.prepare()
    image = got.image if got else None
    new, path = launch.run(spec, engine, image, out, store, inputs=inputs, limits=most)
    if not as_json:
        jobs.print_run(new)
    if new.environment is None:
        raise JobFailed(
            f"the repetition ended before it measured anything: {new.reason}",
            hint=f"the whole log is {path / runs.LOG}",
        )
    made = rerunning.judge(base, new, got, content)
    if as_json:
        print(json.dumps(rerunning.data(made, verdicts.data(made.comparison)), indent=2))
    else:
        for line in [*rerunning.lines(made), "", *verdicts.lines(made.comparison)]:
            OUT.print(plain(line), markup=False, soft_wrap=True)
        OUT.print(f"kept in {path}", markup=False, soft_wrap=True)
    rerunning.demand(made)


def _place(
    base: RunRecord, gpu: bool, allow_other: bool, archive: Path | None, place: str | None
) -> tuple[Engine, obtain.Obtained | None, bool | None]:
    """The engine, the image in it, and whether local code is the record's."""
    if base.image is None:
        now = local_content.of(ROOT)
        same = None if base.content is None else base.content == now
        _say("local: the record's run had no image; this environment is compared with its own")
        return LocalEngine(), None, same
    where = endpoint.find_endpoint(os.environ)
    client = endpoint.connect(where, os.environ)
    with endpoint.engine_errors():
        refusal = docker.gpu_refusal(client) if gpu else None
        if refusal is not None:  # before an image of several GB is brought for nothing
            raise docker.no_gpu(refusal)
        ways = _ways(base, base.image, where, client, allow_other, archive, place)
        got = obtain.obtain(base.image, ways, allow_other=allow_other)
        docker.remove_abandoned(client)
    _say(f"docker: {got.image.tag} ({got.how}), engine at {where.url} ({where.source})")
    return docker.DockerEngine(client, got.image.id), got, None


def _ways(
    base: RunRecord,
    wanted: ImageRef,
    where: endpoint.Endpoint,
    client: DockerClient,
    allow_other: bool,
    archive: Path | None,
    place: str | None,
) -> list[obtain.Way]:
    pinned = pins.load()
    commit = base.environment.git_commit if base.environment else None

    def loaded() -> obtain.Found | str:
        if archive is None:
            return "no archive was named"
        claimed = archives.claimed(archive)
        if not allow_other and not {*claimed.digests} & obtain.digests(wanted):
            return f"{archive} has another image, {claimed.image.tag} ({claimed.image.id})"
        with working(f"loading {archive}") as say:
            return carry.load(client, archive, say).found

    def pulled() -> obtain.Found | str:
        if place is None:
            return "no registry was named"
        try:
            with working(f"pulling from {place}") as say:
                got = registry.pull(client, f"{place}@{wanted.digest or wanted.id}", say)
        except JobFailed as error:
            return error.message
        return obtain.found(got, wanted.tag)

    def built() -> obtain.Found | str:
        with working("building the image again") as say:
            refused = rebuild.rebuild(wanted, commit, ROOT, pinned, say)
        if refused is not None:
            return refused
        return obtain.namesake(client, wanted)

    def current() -> obtain.Found | str:
        profile = wanted.labels.get(f"{LABELS}.profile", pinned.defaults.profile)
        made = choose.ensure_image(profile, None, where, client, pinned)
        return obtain.Found(made, obtain.digests(made))

    ways: list[obtain.Way] = [
        ("present", lambda: obtain.present(client, wanted)),
        (f"from {archive}" if archive else "loaded", loaded),
        (f"from {place}" if place else "pulled", pulled),
        ("of its tag", lambda: obtain.namesake(client, wanted)),
        ("built again", built),
    ]
    if allow_other:
        ways.append(("its profile as the project is now", current))
    return ways


def _say(text: str) -> None:
    ERR.print(plain(text), style="dim", markup=False, soft_wrap=True)
