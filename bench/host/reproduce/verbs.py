"""What `verify-image --rebuild`, `--files` and `--against` do, and the words to the user."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import JobFailed
from bench.host import image, images, pins
from bench.host.console import OUT, working
from bench.host.engine import endpoint
from bench.host.report import plain
from bench.host.reproduce import listing
from bench.host.reproduce import rebuild as rebuilding
from bench.host.request import build_request
from bench.host.supply import rebuild as labelled

if TYPE_CHECKING:
    from docker import DockerClient

SHOWN = 30


def rebuild(
    reference: str | None, *, as_json: bool, private_repo: str | None = None, **options: Any
) -> None:
    """Build an image again without cache and compare; ``options`` are of ``build_request``.

    ``private_repo`` is the address of what the image has of a private repository.

    Raises:
        UsageFault: there is no such image, or this checkout makes another one.
        JobFailed: the build failed, or the second image is not the first.
    """
    pinned = pins.load()
    where = endpoint.find_endpoint(os.environ)
    client = endpoint.connect(where, os.environ)
    with endpoint.engine_errors(), working("building again, without cache") as say:
        found = _found(client, reference)
        chosen = labelled.asked(found.labels, pinned, private_repo)
        request = build_request(**{**chosen, **options})
        outcome = rebuilding.rebuild(found, request, pinned, where, client, progress=say)
    _tell(outcome, as_json, "a second build gives")


def files(reference: str | None, path: str) -> None:
    """Write what is in an image, file by file.

    Raises:
        UsageFault: there is no such image, or the list cannot be written.
    """
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors(), working("reading the layers") as say:
        found = _found(client, reference)
        made = listing.read(client.api.get_image(found.id), found.tag, say)
    listing.write(made, Path(path))
    count = sum(map(len, made.entries))
    said = f"{found.tag} {made.header.image}: {count:,} files in {len(made.layers)} layers"
    OUT.print(plain(said), markup=False, soft_wrap=True)
    hint = f"kept in {path}; elsewhere: invoke verify-image --against {Path(path).name}"
    OUT.print(plain(hint), markup=False, soft_wrap=True)


def against(reference: str | None, path: str, *, as_json: bool) -> None:
    """Compare an image with a list of files.

    Raises:
        UsageFault: there is no such image, or no such list.
        JobFailed: they differ.
    """
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors(), working("reading the layers") as say:
        found = _found(client, reference)
        outcome = rebuilding.against(found, Path(path), client, progress=say)
    _tell(outcome, as_json, f"{Path(path).name} has")


def _found(client: DockerClient, reference: str | None) -> image.Image:
    return images.newest(client) if reference is None else images.named(client, reference)


def _tell(outcome: rebuilding.Outcome, as_json: bool, what: str) -> None:
    record = outcome.record
    if as_json:
        print(record.model_dump_json(indent=1))
    elif record.differences:
        for line in _lines(record):
            OUT.print(plain(line), markup=False, soft_wrap=True)
    if record.same:
        if not as_json:
            said = f"{record.tag}: {what} the same image, {record.first}, {record.seconds:.0f} s"
            OUT.print(plain(said), markup=False, soft_wrap=True)
            OUT.print(f"kept in {outcome.path}", markup=False, soft_wrap=True)
        return
    hint = f"docs/reproducible.md; all of them are in {outcome.path}"
    if outcome.kept is not None:
        hint += f", both versions of the files in {outcome.kept}"
    count = len(record.differences)
    raise JobFailed(
        f"{record.tag} is {record.first}, and {what} {record.second}: "
        f"{count} {'difference' if count == 1 else 'differences'}",
        hint=hint,
    )


def _lines(record: rebuilding.RebuildRecord) -> Iterator[str]:
    """The first differences by layer and step, each with what usually mends it."""
    shown = record.differences[:SHOWN]
    for (number, step), found in itertools.groupby(shown, lambda one: (one.layer, one.step)):
        yield f"layer {number}: {step}" if number else step
        for one in found:
            place = f"/{one.path}" if number and one.path else one.path
            yield f"  {place}: {one.kind}" if place else f"  {one.kind}"
            yield f"    {one.detail}"
            remedy = f"; {one.remedy}" if one.remedy else ""
            yield f"    suspect: {one.suspect}{remedy}"
    if (more := len(record.differences) - SHOWN) > 0:
        yield f"and {more} more"
