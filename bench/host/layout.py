"""An image as an OCI layout has it: which digests are its own, whether its blobs are whole; and one
that is written.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. Engines since Docker 25 save
images so. One engine calls an image by its index or manifest, another by its configuration; the
layout has all of them, each named by the sha256 of its content.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform as machine
import re
import tarfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

INDEX = "index.json"
DOCKERS = "manifest.json"  # Docker's own list, for engines that know no index
_FULL_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_MEDIA = "application/vnd.oci.image"
# As Go names them, by what the kernel says.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# What an engine's archive of an image may hold: nothing else is let in or out.
MEMBER = re.compile(r"oci-layout|index\.json|manifest\.json|blobs/sha256/[0-9a-f]{64}")
FOLDERS = ("blobs", "blobs/sha256")
SMALL = 4 * 2**20  # indexes, manifests and configurations; layers are larger or are no JSON
_DEEP = 4


class Broken(Exception):
    """The layout contradicts itself; says how."""


def blob(digest: str) -> str:
    """The member that holds a blob."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def digests(small: Mapping[str, bytes], members: Mapping[str, str]) -> frozenset[str]:
    """Every digest by which an engine may know the one image of a layout.

    Args:
        small: the content of the members that are small enough to be no layer.
        members: every member, with the sha256 of its content.

    Raises:
        Broken: there is no index, a blob is missing, or there is another image beside it.
    """
    found: set[str] = set()
    # Once for each of its names.
    pending = [(digest, 0) for digest in sorted(set(_listed(_parsed(small, INDEX), "manifests")))]
    if len(pending) != 1:
        raise Broken(f"{INDEX} lists {len(pending)} images, where one is expected")
    while pending:
        digest, depth = pending.pop()
        name = blob(digest)
        if depth > _DEEP or digest in found:
            raise Broken(f"{name} is listed by what it lists")
        if name not in members:
            # Of an image for several platforms, an engine keeps what it runs.
            if depth == 0:
                raise Broken(f"{name} is missing")
            continue
        found.add(digest)
        manifest = _parsed(small, name)
        if "manifests" in manifest:
            pending += [(one, depth + 1) for one in _listed(manifest, "manifests")]
            continue
        for one in (_digest(manifest.get("config"), name), *_listed(manifest, "layers")):
            if blob(one) not in members:
                raise Broken(f"{blob(one)} is missing, which {name} lists")
        found.add(_digest(manifest.get("config"), name))
    return frozenset(found)


def names(small: Mapping[str, bytes]) -> frozenset[str]:
    """Every name that an engine would give the image of a layout, as `docker images` writes it.

    Raises:
        Broken: they cannot be read.
    """
    found: set[str] = set()
    entries = _parsed(small, INDEX).get("manifests")
    for entry in entries if isinstance(entries, list) else ():
        notes = entry.get("annotations") if isinstance(entry, dict) else None
        if isinstance(notes, dict) and _FULL_NAME in notes:
            found.add(familiar(str(notes[_FULL_NAME])))
    if DOCKERS in small:
        try:
            listed = json.loads(small[DOCKERS])
            found |= {familiar(str(name)) for one in listed for name in one.get("RepoTags") or ()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Broken(f"{DOCKERS} cannot be read: {error}") from error
    return frozenset(found)


def platform(small: Mapping[str, bytes]) -> tuple[str, dict[str, Any]]:
    """(digest, content) of the platform manifest of a layout's one image, below any index.

    Raises:
        Broken: there is none, or more than one that the layout has.
    """
    listed = sorted(set(_listed(_parsed(small, INDEX), "manifests")))
    for _ in range(_DEEP):
        there = [one for one in listed if blob(one) in small]
        if len(there) != 1:
            raise Broken(f"{len(there)} manifests where one is expected")
        manifest = _parsed(small, blob(there[0]))
        if "manifests" not in manifest:
            return there[0], manifest
        listed = sorted(set(_listed(manifest, "manifests")))
    raise Broken(f"{INDEX} lists what lists it")


def write(
    path: Path, layer: Path, name: str, epoch: int, labels: Mapping[str, str], comment: str
) -> None:
    """Write an image of one unpacked layer, dated ``epoch``: of the same layer, the same image."""
    summed = hashlib.sha256()
    with layer.open("rb") as file:
        while chunk := file.read(2**20):
            summed.update(chunk)
    layer_digest = f"sha256:{summed.hexdigest()}"
    date = datetime.fromtimestamp(epoch, timezone.utc).isoformat().replace("+00:00", "Z")
    about = {
        "architecture": _ARCHITECTURES.get(machine.machine(), machine.machine()),
        "os": "linux",
    }
    config = _dumped(
        {
            **about,
            "created": date,
            "config": {"Labels": dict(labels)},
            "history": [{"created": date, "comment": comment}],
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
    )
    manifest = _dumped(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _described(config, f"{_MEDIA}.config.v1+json"),
            "layers": [
                {
                    "mediaType": f"{_MEDIA}.layer.v1.tar",
                    "digest": layer_digest,
                    "size": layer.stat().st_size,
                }
            ],
        }
    )
    listed = {
        **_described(manifest, f"{_MEDIA}.manifest.v1+json"),
        "platform": about,
        "annotations": {_FULL_NAME: f"docker.io/{name}", _REF_NAME: name.partition(":")[2]},
    }
    index = _dumped({"schemaVersion": 2, "manifests": [listed]})
    dockers = _dumped(
        [
            {
                "Config": blob(_sha256(config)),
                "RepoTags": [name],
                "Layers": [blob(layer_digest)],
            }
        ]
    )
    small = {
        "oci-layout": _dumped({"imageLayoutVersion": "1.0.0"}),
        INDEX: index,
        DOCKERS: dockers,
        blob(_sha256(config)): config,
        blob(_sha256(manifest)): manifest,
    }
    with tarfile.open(path, "w") as out:
        for member, content in small.items():
            made = tarfile.TarInfo(member)
            made.size = len(content)
            out.addfile(made, io.BytesIO(content))
        made = tarfile.TarInfo(blob(layer_digest))
        made.size = layer.stat().st_size
        with layer.open("rb") as file:
            out.addfile(made, file)


def familiar(name: str) -> str:
    """An image's name without what everybody leaves out: docker.io/library/."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def _dumped(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _described(content: bytes, media: str) -> dict[str, Any]:
    return {"mediaType": media, "digest": _sha256(content), "size": len(content)}


def _parsed(small: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(small[name])
    except KeyError:
        raise Broken(f"{name} is missing, or too large") from None
    except (ValueError, RecursionError) as error:
        raise Broken(f"{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Broken(f"{name} is no JSON object")
    return value


def _listed(value: Mapping[str, Any], key: str) -> list[str]:
    entries = value.get(key)
    if not isinstance(entries, list):
        raise Broken(f"there is no list of {key}")
    return [_digest(one, key) for one in entries]


def _digest(descriptor: object, where: str) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Broken(f"{where} has something without a sha256")
    return digest
