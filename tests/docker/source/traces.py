"""What an image holds, byte by byte: every file of every layer, its history and its labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docker.test_image_secrets import contents_of

if TYPE_CHECKING:
    from docker import DockerClient

# Of a Debian base alone there are more.
FEWEST_FILES = 1000


def found(client: DockerClient, reference: str, marks: Sequence[str], folder: Path) -> list[str]:
    """Where any of the marks is in an image: files by layer and name, "history", "labels"."""
    image = client.images.get(reference)
    archive = folder / "saved.tar"
    with archive.open("wb") as file:
        for chunk in image.save(named=True):
            file.write(chunk)
    places = found_in(archive, marks)
    for name, told in (("history", image.history()), ("labels", image.attrs)):
        text = json.dumps(told)
        places += [f"{mark} in {name}" for mark in marks if mark in text]
    return places


def found_in(archive: Path, marks: Sequence[str]) -> list[str]:
    """The same in a tar archive, and in those that it holds; the file is removed."""
    places, count = [], 0
    with archive.open("rb") as file:
        for name, content in contents_of(file):
            count += 1
            places += [f"{mark} in {name}" for mark in marks if mark.encode() in content]
    archive.unlink()
    assert count > FEWEST_FILES, "the layers were not looked into"
    return places
