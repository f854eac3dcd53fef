"""A build with its provenance: an image that is built here is never without the statement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from bench.host import image, verify
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Pins
from bench.host.supply import beside, provenance

if TYPE_CHECKING:
    from docker import DockerClient

Progress = Callable[[str], None]


def build(
    planned: image.BuildPlan,
    pinned: Pins,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    environ: Mapping[str, str] | None = None,
    folder: Path = verify.FOLDER,
) -> image.Image:
    """Build a plan as ``bench.host.image.build`` does, and keep where it is from in ``folder``.

    Raises as that does.
    """
    began = datetime.now(timezone.utc)
    made = image.build(
        planned, pinned, endpoint, client, progress=progress, environ=environ, folder=folder
    )
    built = provenance.Built(
        tag=made.tag,
        digest=made.digest or made.id,
        content_id=planned.content_id,
        profile=planned.profile,
        labels=made.labels,
        request=planned.request,
        tvm=planned.tvm,
        base=planned.base.name,
        base_id=planned.base.id,
        engine=str(client.version().get("Version", "unknown")),
        began=began,
        ended=datetime.now(timezone.utc),
    )
    stated = provenance.statement(built, pinned, planned.root)
    beside.keep(beside.path(made.tag, beside.PROVENANCE, folder), provenance.text(stated))
    return made


def ensure(
    request: image.BuildRequest,
    pinned: Pins,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    made_base: bool = False,
    root: Path = image.ROOT,
    environ: Mapping[str, str] | None = None,
    folder: Path = verify.FOLDER,
) -> image.Image:
    """The image of a request: found where nothing has changed, else built. Raises as those do."""
    planned = image.plan(
        request,
        pinned,
        client,
        made_base=made_base,
        progress=progress,
        root=root,
        environ=environ,
    )
    found = None if request.no_cache else image.find(planned, client)
    return found or build(
        planned, pinned, endpoint, client, progress=progress, environ=environ, folder=folder
    )
