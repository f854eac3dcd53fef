"""A small image through a real engine: saved, removed, loaded, and damaged on the way."""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.contract import ContractRecord
from bench.errors import UsageFault
from bench.host import pins
from bench.host.image import CONTENT_LABEL, REPOSITORY
from bench.host.supply import archive, beside, carry, contents, obtain
from bench.host.supply.contents import Contents
from tests.unit.archives import contract

if TYPE_CHECKING:
    from docker import DockerClient

CONTENT = secrets.token_hex(32)
LABELS = {CONTENT_LABEL: CONTENT, "io.gpt-frontend.profile": "cpu"}
NOTHING = Contents(os_release={"ID": "debian"}, packages=(), distributions=())


def present(client: DockerClient, name: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


@pytest.fixture
def tag(client: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An image of one file, labelled as ours, with the record of a kept contract."""
    # There is no Python in it that could be asked; test_supply_sbom.py asks a whole image.
    monkeypatch.setattr(contents, "ask", lambda *_, **__: NOTHING)
    version = f"cpu-{secrets.token_hex(6)}"
    made = f"{REPOSITORY}:{version}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        one = tarfile.TarInfo("file")
        one.size = 100_000
        tar.addfile(one, io.BytesIO(secrets.token_bytes(one.size)))
    changes = [f"LABEL {key}={value}" for key, value in LABELS.items()]
    client.api.import_image_from_data(buffer.getvalue(), REPOSITORY, version, changes=changes)
    record(client, made, tmp_path)
    yield made
    from docker.errors import ImageNotFound

    with contextlib.suppress(ImageNotFound):
        client.images.remove(made)


def record(client: DockerClient, tag: str, folder: Path) -> None:
    known = obtain.reference(client.images.get(tag), tag)
    kept = ContractRecord.model_validate_json(contract(known.id)).model_copy(
        update={"image": known}
    )
    beside.keep(beside.path(tag, beside.CONTRACT, folder), kept.model_dump_json())


def save(client: DockerClient, tag: str, path: Path, folder: Path) -> carry.Saved:
    return carry.save(client, tag, path, pins.load(), folder=folder)


def test_a_saved_image_is_removed_and_comes_back_the_same(
    client: DockerClient, tag: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"
    made = save(client, tag, path, tmp_path)
    assert len(made.lacking) == 1, "it was not built here, so that it has no provenance"
    client.images.remove(tag)
    assert not present(client, tag)
    got = carry.load(client, path, folder=tmp_path / "other", digest=made.image.id)
    assert got.found.image == made.image and got.replaced is None
    there = client.images.get(tag)
    assert there.id == made.image.id and there.labels == LABELS
    for kind in (beside.CONTRACT, beside.SBOM):
        assert beside.path(tag, kind, tmp_path / "other").is_file()


def test_two_archives_of_one_image_are_one_file(
    client: DockerClient, tag: str, tmp_path: Path
) -> None:
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for path in paths:
        save(client, tag, path, tmp_path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("damage", ["a byte", "its end"])
def test_of_a_damaged_archive_the_engine_gets_nothing(
    client: DockerClient, tag: str, tmp_path: Path, damage: str
) -> None:
    path, folder = tmp_path / "image.tar", tmp_path / "other"
    save(client, tag, path, tmp_path)
    client.images.remove(tag)
    whole = bytearray(path.read_bytes())
    if damage == "a byte":
        with tarfile.open(path) as tar:
            layer = max((one for one in tar), key=lambda one: one.size)
        whole[layer.offset_data + layer.size // 2] ^= 1
    else:
        whole = whole[: len(whole) // 2]
    path.write_bytes(whole)
    with pytest.raises(UsageFault, match="nothing of it was loaded"):
        carry.load(client, path, folder=folder)
    assert not present(client, tag) and not folder.exists()


def test_the_image_of_a_record_is_had_from_an_archive_and_told_from_its_namesake(
    client: DockerClient, tag: str, tmp_path: Path
) -> None:
    """What `invoke rerun --archive` does: the tag is of another image here meanwhile."""
    path = tmp_path / "image.tar"
    wanted = save(client, tag, path, tmp_path).image
    client.images.remove(tag)
    version = tag.partition(":")[2]
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("another"))
    client.api.import_image_from_data(empty.getvalue(), REPOSITORY, version)
    other = str(client.images.get(tag).id)
    assert isinstance(obtain.present(client, wanted), str)
    ways: list[obtain.Way] = [
        ("present", lambda: obtain.present(client, wanted)),
        ("loaded", lambda: carry.load(client, path, folder=tmp_path / "other").found),
    ]
    got = obtain.obtain(wanted, ways, allow_other=False)
    assert (got.how, got.same, got.image.id) == ("loaded", True, wanted.id)
    assert other != wanted.id
    with contextlib.suppress(Exception):  # it has no name any more; an engine may have dropped it
        client.images.remove(other)


def test_an_archive_claims_what_it_holds(client: DockerClient, tag: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    made = save(client, tag, path, tmp_path)
    assert archive.claimed(path).image == made.image
    assert archive.verified(path).manifest == archive.claimed(path)
