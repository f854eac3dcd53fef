"""What the verbs about an image's contents do: the pieces put together, and the words."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from bench.errors import UsageFault
from bench.host import image, images, pins, promise, verify
from bench.host.console import ERR, OUT, working
from bench.host.engine import endpoint
from bench.host.report import plain
from bench.host.supply import beside, carry, contents, documents, licences, obtain, registry, sbom
from bench.host.web import CannotAsk


def bill(reference: str | None, to: Path | None, form: str) -> None:
    """Write the bill of materials of an image, and say what is in it.

    Raises:
        UsageFault: there is no such image or form, or the file cannot be written.
        JobFailed: the image did not tell what is in it.
    """
    if form not in sbom.FORMATS:
        raise UsageFault(f"unknown format '{form}'", hint=f"--format {', '.join(sbom.FORMATS)}")
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors():
        named = images.newest(client) if reference is None else images.named(client, reference)
        there = client.images.get(named.id)
        tag = next((one for one in there.tags if one == named.tag), (there.tags or [named.tag])[0])
        with working(f"asking {tag}") as say:
            listed = contents.ask(client, named.id, progress=say)
        made = sbom.Bill(
            obtain.reference(there, tag),
            sbom.created(str(there.attrs.get("Created", ""))),
            listed,
            pins.load(),
        )
    text = sbom.write(made, form)
    where = to or beside.path(tag, sbom.FORMATS[form], verify.FOLDER)
    beside.keep(where, text)
    OUT.print(_summary(made), markup=False, soft_wrap=True)
    OUT.print(f"kept in {where}", markup=False, soft_wrap=True)


def save(reference: str | None, path: Path) -> None:
    """Write an image with what is known of it to an archive, and say what is in it."""
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors(), working(f"saving to {path}") as say:
        made = carry.save(client, reference, path, pins.load(), say)
    for one in made.lacking:
        tell(f"without its {one}")
    told = f"{made.image.tag} {made.image.digest or made.image.id}"
    OUT.print(plain(told), markup=False, soft_wrap=True)
    size = made.size_bytes / verify.GIB
    OUT.print(f"kept in {path}, {size:.2f} GiB", markup=False, soft_wrap=True)


def load(path: Path, digest: str | None) -> None:
    """Verify an archive and load its image, ready for jobs; nothing is built."""
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors(), working(f"loading {path}") as say:
        made = carry.load(client, path, say, digest=digest)
    if made.replaced is not None:
        tell(f"another image had this tag, and has it no more: {made.replaced}")
    for one in made.lacking:
        tell(f"the archive has no {one} of it")
    got = made.found.image
    told = f"{got.tag} {got.digest or got.id}, as it was saved"
    OUT.print(plain(told), markup=False, soft_wrap=True)
    OUT.print(f"run in it: invoke bench --image {got.tag}", style="dim", markup=False)


def push(reference: str | None, place: str) -> None:
    """Push an image by whatever tag it has, and say by which digest the registry has it.

    What is known of it is attached to it there. A registry that refuses that has the image all the
    same: it is told why.

    Raises:
        UsageFault: there is no such image, or no record that it has kept its contract.
        JobFailed: the image does not tell what is in it, or the registry refuses it.
    """
    registry.repository(place)
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors(), working(f"pushing to {place}") as say:
        named = images.newest(client) if reference is None else images.named(client, reference)
        pinned = pins.load()
        promise.of_labels(named.labels, pinned)  # refuses one that is none of ours
        tag = registry.tag_of(named.labels)
        if named.tag.endswith(image.CANDIDATE):
            raise UsageFault(
                f"{named.tag} has not kept its contract",
                hint=f"invoke verify-image --image {named.tag}",
            )
        there = client.images.get(named.id)
        known = documents.of(
            client, there, obtain.reference(there, tag), pinned, verify.FOLDER, say
        )
        pushed = registry.push(client, there, tag, place, say)
        try:
            registry.attach(client, pushed, tag, known, os.environ)
            told = f"with its {', '.join(documents.NAMES[kind] for kind in known)}"
            if beside.PROVENANCE not in known:
                told += "; without its provenance: there is none of this very image here"
        except CannotAsk as why:
            told = f"the image is pushed, and its documents were not attached: {why}"
    OUT.print(plain(pushed), markup=False, soft_wrap=True)
    tell(told)
    OUT.print(f"have it elsewhere: invoke pull {pushed}", style="dim", markup=False)


def pull(name: str) -> None:
    """Pull an image by its digest, check its contract here, and give it its own tag.

    What is attached to it is had first, since it is small, and laid out last.

    Raises:
        UsageFault: no digest was named, or it is none of ours.
        JobFailed: it cannot be had, breaks its contract, or has a document of another image.
    """
    registry.reference(name)
    pinned = pins.load()
    client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
    with endpoint.engine_errors(), working(f"pulling {name}") as say:
        try:
            known, digests = registry.attached(client, name, os.environ)
            lacking = [
                f"the registry has no {documents.NAMES[one]} of it"
                for one in beside.KINDS
                if one not in known
            ]
        except CannotAsk as why:
            known, digests = {}, frozenset()
            lacking = [f"what is known of it could not be had: {why}"]
        got = registry.pull(client, name, say)
        tag = registry.tag_of(got.labels)
        expected = promise.of_labels(got.labels, pinned)
        record = verify.verify(client, str(got.id), expected, say, tag=tag)
        verify.write(record)
        verify.demand(record)
        digests |= obtain.found(got, tag).digests
        documents.lay_out(known, tag, digests, verify.FOLDER)
        got.tag(tag)
    for line in lacking:
        tell(line)
    told = f"{tag} {name.partition('@')[2]}, and it keeps its contract"
    OUT.print(plain(told), markup=False, soft_wrap=True)
    OUT.print(f"run in it: invoke bench --image {tag}", style="dim", markup=False)


def _summary(made: sbom.Bill) -> str:
    listed = made.contents
    stated = Counter(
        bool(one.expression or one.names)
        for one in (
            *map(licences.of_debian, listed.packages),
            *map(licences.of_python, listed.distributions),
        )
    )
    said = f"{made.image.tag}: {len(listed.packages)} Debian and {len(listed.distributions)} "
    said += f"Python packages, {stated[True]} of {stated.total()} with a stated licence"
    if listed.built:
        commit = str(listed.built.get("tvm", {}).get("commit", ""))
        said += f", TVM compiled from {commit[:12]}"
    return plain(said)


def tell(text: str) -> None:
    """A line on standard error that may quote anything."""
    ERR.print(plain(text), style="dim", markup=False, soft_wrap=True)
