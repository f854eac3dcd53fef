"""An image built once more, without anything of the first build, and compared with it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from bench.errors import UsageFault
from bench.host import image, verify
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Pins
from bench.host.reproduce import differences, listing, why
from bench.host.reproduce.differences import Difference
from bench.host.reproduce.listing import Listing
from bench.host.supply import beside

if TYPE_CHECKING:
    from docker import DockerClient

RECORD = ".rebuild.json"
KEPT = ".differences"
# So many files' contents are compared; of the others is said that they differ.
EXPLAINED = 40

Progress = Callable[[str], None]


class RebuildRecord(BaseModel):
    """What came of a comparison; ``first`` and ``second`` are the platform manifests' digests.

    ``with_list`` is the name of the list that stood for the second image, where there was one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    tag: str
    first: str
    second: str
    same: bool
    differences: tuple[Difference, ...] = ()
    with_list: str | None = None
    engine: str
    created_at: datetime
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A record, where it is kept, and the folder with files that differ, if any do."""

    record: RebuildRecord
    path: Path
    kept: Path | None = None


def rebuild(
    found: image.Image,
    request: image.BuildRequest,
    pinned: Pins,
    endpoint: Endpoint,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    environ: Mapping[str, str] | None = None,
    root: Path = image.ROOT,
    folder: Path = verify.FOLDER,
) -> Outcome:
    """Build the image of ``request`` without cache and compare it with ``found``.

    Where they are equal the second one's tag is taken away again; else it stays to be looked at,
    and the files that differ are kept in pairs beside the record.

    Raises:
        UsageFault: this checkout makes another image than ``found``.
        JobFailed: the build failed.
    """
    began = time.monotonic()
    plan = image.plan(
        replace(request, again=True),
        pinned,
        client,
        made_base=True,
        progress=progress,
        root=root,
        environ=environ,
    )
    if plan.content_id != found.labels.get(image.CONTENT_LABEL):
        raise UsageFault(
            f"this checkout does not make {found.tag}: it makes {plan.tag}",
            hint="invoke build-image makes that one; or check out the commit that made the other, "
            "and name what it was built with (--mirror-folder and the like change nothing)",
        )
    made = image.make(plan, endpoint, client, progress=progress, environ=environ)
    # By content: the engine's own id of an image is the digest of its manifest, or, in its older
    # store, of its configuration, which lists the checksum of every layer.
    if made.id == found.id:
        client.images.remove(plan.candidate)
        return _kept(found, made.id, (), None, client, began, folder)
    sides = [listing.read(client.api.get_image(one.id), one.tag, progress) for one in (found, made)]
    told, kept = _explained(sides, client, (found.id, made.id), folder / _kept_name(found.tag))
    return _kept(found, made.id, told, kept, client, began, folder)


def against(
    found: image.Image,
    path: Path,
    client: DockerClient,
    *,
    progress: Progress = lambda _: None,
    folder: Path = verify.FOLDER,
) -> Outcome:
    """Compare an image with a list of another machine's, which ``listing.write`` wrote.

    Raises:
        UsageFault: it is no such list, or that of an image which was made of something else.
    """
    began = time.monotonic()
    other = listing.load(path)
    labels = (other.settings.get("config") or {}).get("Labels") or {}
    if labels.get(image.CONTENT_LABEL) != found.labels.get(image.CONTENT_LABEL):
        raise UsageFault(
            f"{path} is of {other.header.tag}, which was made of something else than {found.tag}",
            hint="build at the same commit, with the same options and the same base",
        )
    mine = listing.read(client.api.get_image(found.id), found.tag, progress)
    told = differences.between(mine, other)
    return _kept(found, other.header.image, told, None, client, began, folder, path.name)


def _kept_name(tag: str) -> str:
    return f"{verify.stem(tag)}{KEPT}"


def _kept(
    found: image.Image,
    second: str,
    told: Sequence[Difference],
    kept: Path | None,
    client: DockerClient,
    began: float,
    folder: Path,
    with_list: str | None = None,
) -> Outcome:
    record = RebuildRecord(
        tag=found.tag,
        first=found.id,
        second=second,
        same=not told,
        differences=tuple(told),
        with_list=with_list,
        engine=str(client.version().get("Version", "unknown")),
        created_at=datetime.now(timezone.utc),
        seconds=round(time.monotonic() - began, 1),
    )
    path = beside.path(found.tag, RECORD, folder)
    beside.keep(path, record.model_dump_json(indent=1) + "\n")
    if kept is None:  # of an earlier comparison
        shutil.rmtree(folder / _kept_name(found.tag), ignore_errors=True)
    return Outcome(record, path, kept)


def _explained(
    sides: Sequence[Listing], client: DockerClient, ids: Sequence[str], keep: Path
) -> tuple[list[Difference], Path | None]:
    """The differences of two images, with the reason where files' contents differ."""
    told = differences.between(*sides)
    looked = [one for one in told if one.kind == differences.CONTENT][:EXPLAINED]
    if not looked:
        return told, None
    keep.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".differing-", dir=keep.parent) as name:
        scratch = Path(name, "files")
        for which, side, identity in zip(("first", "second"), sides, ids, strict=True):
            _copy(client, identity, side, looked, scratch / which)
        reasons = {one: _why(one, scratch) for one in looked}
        shutil.rmtree(keep, ignore_errors=True)
        scratch.rename(keep)
    return [reasons.get(one, one) for one in told], keep


def _copy(
    client: DockerClient, identity: str, side: Listing, looked: Sequence[Difference], into: Path
) -> None:
    wanted: dict[str, set[str]] = {}
    for one in looked:
        wanted.setdefault(side.layers[one.layer - 1].digest, set()).add(one.path)
    numbers = {layer.digest: layer.number for layer in side.layers}

    def on_file(digest: str, path: str, content: IO[bytes]) -> None:
        target = _place(into, numbers[digest], path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)

    listing.extract(client.api.get_image(identity), wanted, on_file)


def _place(folder: Path, layer: int, path: str) -> Path:
    # An image may have any path in it, one with ".." too.
    parts = [part for part in Path(path).parts if part not in ("..", "/")]
    return Path(folder, f"layer-{layer}", *parts)


def _why(one: Difference, scratch: Path) -> Difference:
    pair = [_place(scratch / which, one.layer, one.path) for which in ("first", "second")]
    found = why.explain(*pair)
    return one.model_copy(
        update={"kind": found.kind, "detail": found.detail, "remedy": found.remedy}
    )
