"""What two lists of one image's files have otherwise: by layer, file and kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.host.reproduce import steps
from bench.host.reproduce.listing import Entry, Layer, Listing

CONTENT = "content"
_MISSING = "(missing)"


class Difference(BaseModel):
    """One difference. ``layer`` 0 is the image's configuration; ``kind`` is a word for it.

    ``detail`` says what differs, ``suspect`` names the step of docker/Dockerfile to look at, and
    ``remedy`` what usually mends it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    step: str
    path: str
    kind: str
    detail: str
    suspect: str
    remedy: str = ""


def between(first: Listing, second: Listing) -> list[Difference]:
    """Every difference of two lists; of a file's content, only that it differs.

    The layers come first: the configuration differs where they do, and often says no more.
    """
    found: list[Difference] = []
    for number, pair in enumerate(zip_longest(first.layers, second.layers), start=1):
        one, other = pair
        if one is None or other is None:
            there = one or other
            found.append(_of(there, "", "layer", f"only the {_which(one)} image has it"))
        elif one.diff_id != other.diff_id:
            found += _layer(one, first.entries[number - 1], second.entries[number - 1])
        elif one.digest != other.digest:
            said = "the same content, compressed otherwise: by an engine of another version"
            found.append(_of(one, "", "compression", said))
    return [*found, *_settings(first.settings, second.settings)]


def _which(one: Layer | None) -> str:
    return "first" if one is not None else "second"


def _of(layer: Layer, path: str, kind: str, detail: str, remedy: str = "") -> Difference:
    return Difference(
        layer=layer.number,
        step=layer.step,
        path=path,
        kind=kind,
        detail=detail,
        suspect=steps.suspect(layer.step, path),
        remedy=remedy,
    )


def _layer(
    layer: Layer, first: tuple[Entry, ...], second: tuple[Entry, ...]
) -> Iterator[Difference]:
    ones, others = ({entry.path: entry for entry in entries} for entries in (first, second))
    before = len(ones)
    told = False
    for path in sorted({*ones, *others}):
        one, other = ones.get(path), others.get(path)
        if one is None or other is None:
            which = "first" if other is None else "second"
            told = True
            yield _of(
                layer, path, "presence", f"only the {which} build has it",
                "remove logs, caches and temporary files in the step that makes them",
            )  # fmt: skip
            continue
        for difference in _entry(layer, one, other):
            told = True
            yield difference
    if told:
        return
    if [entry.path for entry in first] != [entry.path for entry in second]:
        yield _of(layer, "", "order", "the same files, in another order in the layer")
    else:
        said = f"its checksum differs, and {before} files do not: something that is not listed"
        yield _of(layer, "", "unknown", said)


def _entry(layer: Layer, one: Entry, other: Entry) -> Iterator[Difference]:
    if one.kind != other.kind:
        yield _of(layer, one.path, "type", f"{one.kind}, then {other.kind}")
        return
    if (one.sha256, one.size) != (other.sha256, other.size):
        yield _of(layer, one.path, CONTENT, f"{one.size:,} bytes, then {other.size:,}")
    for kind, before, after in (
        ("mode", one.mode, other.mode),
        ("owner", one.owner, other.owner),
        ("link", one.target, other.target),
        ("attributes", str(one.attributes), str(other.attributes)),
    ):
        if before != after:
            yield _of(layer, one.path, kind, f"{before}, then {after}")
    if one.mtime != other.mtime:
        yield _of(
            layer, one.path, "time stamp", f"{_date(one.mtime)}, then {_date(other.mtime)}",
            "the step must end with settle (docker/settle.sh)",
        )  # fmt: skip


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    ones, others = _flat(first), _flat(second)
    for key in sorted({*ones, *others}):
        if key.startswith("rootfs."):  # the layers' own checksums
            continue
        before, after = ones.get(key, _MISSING), others.get(key, _MISSING)
        if before != after:
            yield Difference(
                layer=0,
                step="the image's configuration",
                path=key,
                kind="configuration",
                detail=f"{before[:120]}, then {after[:120]}",
                suspect="the base image and the options of the build",
            )


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    """Every leaf by its place: ``config.Env.2``."""
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found |= _flat(inner, f"{prefix}.{number}")
    else:
        found[prefix] = str(value)
    return found
