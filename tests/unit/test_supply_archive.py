"""An archive of an image: whole or refused, whatever befell it on its way."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host.supply import archive
from bench.record import ImageRef
from tests.unit.archives import (
    TAG,
    Files,
    another_layer,
    beside_of,
    dumped,
    image_files,
    packed,
    rewritten,
    unpacked,
    written,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return written(tmp_path)


def test_what_was_saved_is_verified_and_the_engine_gets_its_own_part_back(saved: Path) -> None:
    files, manifest, config = image_files()
    read = archive.verified(saved)
    assert set(read.manifest.digests) == {manifest, config}
    assert read.beside == beside_of(manifest)
    part = b"".join(archive.engine_part(saved, read.image_bytes))
    assert unpacked(part) == files
    assert archive.claimed(saved) == read.manifest


def test_one_image_gives_one_archive(saved: Path, tmp_path: Path) -> None:
    files, manifest, _ = image_files()
    image = ImageRef(id=manifest, digest=manifest, tag=TAG, labels={})
    again = tmp_path / "again.tar"
    archive.write(again, [packed(files, folders=False)], image, beside_of(manifest))
    assert again.read_bytes() == saved.read_bytes()


def test_any_byte_that_is_another_is_noticed(saved: Path) -> None:
    """Every 97th byte of the content of every file; padding carries nothing."""
    whole = saved.read_bytes()
    with tarfile.open(saved) as tar:
        places = [
            place for one in tar for place in range(one.offset_data, one.offset_data + one.size, 97)
        ]
    assert len(places) > 50
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(UsageFault, match="is not what was saved, and nothing of it was loaded"):
            archive.verified(saved)


def test_an_archive_that_was_cut_short_is_refused_wherever_it_was_cut(saved: Path) -> None:
    whole = saved.read_bytes()
    with tarfile.open(saved) as tar:
        end = max(one.offset_data + one.size for one in tar)
    for length in (*range(0, end, 701), end - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(UsageFault):
            archive.verified(saved)


def another_image(files: Files) -> None:
    other, _, _ = image_files(b"another layer")
    for name in [one for one in files if not one.startswith(archive.OURS)]:
        del files[name]
    files.update({**other, **files})


def no_layer(files: Files) -> None:
    name = max((one for one in files if one.startswith("blobs/")), key=lambda one: len(files[one]))
    del files[name]


def two_images(files: Files) -> None:
    index = json.loads(files["index.json"])
    index["manifests"].append({"digest": "sha256:" + "0" * 64})
    files["index.json"] = dumped(index)


def a_name_of_others(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'["gpt', b'["debian:12", "gpt')


def another_name_in_the_index(files: Files) -> None:
    index = json.loads(files["index.json"])
    named = {"io.containerd.image.name": "docker.io/library/debian:12"}
    index["manifests"][0]["annotations"] = named
    files["index.json"] = dumped(index)


def a_strange_file(files: Files) -> None:
    files["etc/passwd"] = b"root"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_layer, "is not what its name says"),
        (another_image, "not the one it names"),
        (no_layer, "is missing, which blobs/sha256/"),
        (two_images, "lists 2 images"),
        (a_name_of_others, "it would call its image debian:12 too"),
        (another_name_in_the_index, "it would call its image debian:12 too"),
        (a_strange_file, "etc/passwd does not belong in it"),
        (lambda files: files.pop(archive.CONTRACT), "contract.json is missing"),
        (lambda files: files.pop("index.json"), "index.json is missing"),
        (lambda files: files.update({"index.json": b"[" * 100_000}), "index.json is no JSON"),
    ],
)
def test_tampering_that_its_manifest_agrees_with_is_noticed_too(
    saved: Path, change: Callable[[Files], None], said: str
) -> None:
    rewritten(saved, change)
    with pytest.raises(UsageFault) as caught:
        archive.verified(saved)
    assert said in caught.value.message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(saved: Path, kind: bytes) -> None:
    with tarfile.open(saved, "a") as tar:
        one = tarfile.TarInfo("oci-layout2" if kind == tarfile.FIFOTYPE else "index.json")
        one.type = kind
        one.linkname = "/etc/passwd"
        tar.addfile(one)
    with pytest.raises(UsageFault, match="does not belong in it"):
        archive.verified(saved)


def test_a_file_that_is_in_it_twice_is_refused(saved: Path) -> None:
    with tarfile.open(saved, "a") as tar:
        tar.addfile(tarfile.TarInfo("index.json"))
    with pytest.raises(UsageFault, match=r"index\.json is in it twice"):
        archive.verified(saved)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 4096, packed({"a": b"b"})])
def test_what_is_no_archive_of_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.tar"
    path.write_bytes(content)
    for read in (archive.verified, archive.claimed):
        with pytest.raises(UsageFault):
            read(path)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="cannot read"):
        archive.verified(tmp_path / "absent.tar")


def test_a_compressed_one_is_to_be_unpacked_first(tmp_path: Path) -> None:
    path = tmp_path / "image.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" * 1000)
    with pytest.raises(UsageFault) as caught:
        archive.verified(path)
    assert "zstd -d" in str(caught.value.hint)


@pytest.mark.parametrize("end", ["the engine went away", "another image", "no layout"])
def test_an_archive_that_cannot_be_written_whole_is_not_there(tmp_path: Path, end: str) -> None:
    files, manifest, _ = image_files()
    image = ImageRef(id=manifest, digest=manifest, tag=TAG, labels={})
    path = tmp_path / "image.tar"
    path.write_text("an earlier one")

    def gone() -> Iterator[bytes]:
        yield packed(files)[:3000]
        raise ConnectionError(end)

    given: Any = gone()
    expected: type[Exception] = UsageFault
    if end == "another image":
        given, image = [packed(files)], image.model_copy(update={"id": "sha256:" + "0" * 64})
    elif end == "no layout":
        given, expected = [packed({"abc/layer.tar": b""})], JobFailed
    with pytest.raises(expected):
        archive.write(path, given, image, {})
    assert [one.name for one in tmp_path.iterdir()] == ["image.tar"]
    assert path.read_text() == "an earlier one"
