"""Archives into an engine and out of one: what is not as it was saved never gets there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import pins
from bench.host.supply import archive, beside, carry, documents
from bench.record import ImageRef
from tests.unit.archives import (
    TAG,
    Files,
    another_layer,
    beside_of,
    contract,
    image_files,
    rewritten,
    statement,
    unpacked,
    written,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return written(tmp_path)


class Engine:
    """An engine that takes what it is given: the image of the archive, or another one."""

    def __init__(self, gives: str | None = None, has: str | None = None) -> None:
        self.tags = {TAG: has} if has else {}
        self.given = b""
        self._gives = gives
        self.images = SimpleNamespace(get=self._get, load=self._load)

    def _get(self, name: str) -> Any:
        from docker.errors import ImageNotFound

        if name not in self.tags:
            raise ImageNotFound(name)
        named: dict[str, list[str]] = {"RepoDigests": []}
        return SimpleNamespace(id=self.tags[name], tags=[name], labels={}, attrs=named)

    def _load(self, stream: Any) -> None:
        while chunk := stream.read(999):
            self.given += chunk
        index = json.loads(unpacked(self.given)["index.json"])
        self.tags[TAG] = self._gives or index["manifests"][0]["digest"]


def load(engine: Engine, path: Path, folder: Path, **given: Any) -> carry.Loaded:
    client: Any = engine
    return carry.load(client, path, folder=folder, **given)


def test_a_loaded_image_has_its_tag_and_all_that_is_known_of_it(
    saved: Path, tmp_path: Path
) -> None:
    _, manifest, config = image_files()
    engine, folder = Engine(), tmp_path / "contracts"
    got = load(engine, saved, folder)
    assert got.found.image.id == manifest and got.found.digests == {manifest, config}
    assert (got.replaced, got.lacking) == (None, ())
    for member, kind in (
        (archive.CONTRACT, beside.CONTRACT),
        (archive.SBOM, beside.SBOM),
        (archive.PROVENANCE, beside.PROVENANCE),
    ):
        assert beside.path(TAG, kind, folder).read_bytes() == beside_of(manifest)[member]


def test_an_engine_that_calls_it_by_its_configuration_has_it_too(
    saved: Path, tmp_path: Path
) -> None:
    _, manifest, config = image_files()
    got = load(Engine(gives=config), saved, tmp_path / "contracts")
    assert got.found.image.id == config and manifest in got.found.digests


def test_the_image_that_loses_its_tag_is_named(saved: Path, tmp_path: Path) -> None:
    other = "sha256:" + "9" * 64
    assert load(Engine(has=other), saved, tmp_path / "c").replaced == other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_layer, "is not what its name says"),
        (
            lambda f: f.update({archive.CONTRACT: contract("sha256:" + "0" * 64)}),
            "of another image",
        ),
        (lambda f: f.update({archive.CONTRACT: b"{}"}), "cannot be read"),
        (
            lambda f: f.update({archive.PROVENANCE: statement("sha256:" + "0" * 64)}),
            "provenance is",
        ),
    ],
)
def test_nothing_of_a_bad_archive_reaches_the_engine_or_the_folder(
    saved: Path, tmp_path: Path, change: Callable[[Files], None], said: str
) -> None:
    rewritten(saved, change)
    engine, folder = Engine(), tmp_path / "contracts"
    with pytest.raises(UsageFault, match=said):
        load(engine, saved, folder)
    assert engine.given == b"" and not folder.exists()


def test_a_contract_that_was_not_kept_is_refused(saved: Path, tmp_path: Path) -> None:
    _, manifest, _ = image_files()
    rewritten(saved, lambda f: f.update({archive.CONTRACT: contract(manifest, ok=False)}))
    with pytest.raises(UsageFault, match="its contract was not kept"):
        load(Engine(), saved, tmp_path / "c")


def test_a_digest_that_was_asked_for_must_be_its_own(saved: Path, tmp_path: Path) -> None:
    engine = Engine()
    with pytest.raises(UsageFault, match="not sha256:0"):
        load(engine, saved, tmp_path / "c", digest="sha256:" + "0" * 64)
    assert engine.given == b""
    _, manifest, _ = image_files()
    load(engine, saved, tmp_path / "c", digest=manifest)


def test_an_engine_that_ends_with_another_image_is_not_believed(
    saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    with pytest.raises(JobFailed, match="does not have its image"):
        load(Engine(gives="sha256:" + "8" * 64), saved, folder)
    assert list(folder.iterdir()) == []


def test_an_image_without_a_kept_contract_is_not_saved(tmp_path: Path) -> None:
    known = ImageRef(id="sha256:" + "1" * 64, digest=None, tag=TAG, labels={})
    path = beside.path(TAG, beside.CONTRACT, tmp_path)
    for content, said in (
        (None, "has no record of its contract"),
        (contract("sha256:" + "0" * 64), "is of another image"),
        (contract(known.id, ok=False), "has not kept its contract"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageFault, match=said):
            documents.contract(known, tmp_path)
    path.write_bytes(contract(known.id))
    assert documents.contract(known, tmp_path) == path.read_bytes()


def test_only_tar_archives_are_written(tmp_path: Path) -> None:
    client: Any = None
    with pytest.raises(UsageFault, match=r"does not end in \.tar"):
        carry.save(client, None, tmp_path / "image.tar.zst", pins.load())
