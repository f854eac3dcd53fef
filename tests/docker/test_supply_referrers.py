"""What is known of an image travels with it through a real registry: by `push` and `pull`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.contract import ContractRecord
from bench.errors import JobFailed
from bench.host import promise, verify
from bench.host.distribution import OCI_INDEX, OCI_MANIFEST
from bench.host.image import CONTENT_LABEL, REPOSITORY
from bench.host.supply import beside, contents, obtain, referrers, verbs
from bench.host.supply.contents import Contents
from tests.docker.registries import Served
from tests.unit.archives import contract, statement

if TYPE_CHECKING:
    from docker import DockerClient

NOTHING = Contents(os_release={"ID": "debian"}, packages=(), distributions=())


@dataclass(frozen=True)
class Made:
    """A small image of ours in the engine, and the folder of who built it."""

    tag: str
    id: str
    home: Path

    def document(self, kind: str, home: Path | None = None) -> Path:
        return beside.path(self.tag, kind, (home or self.home) / verify.FOLDER)


@pytest.fixture
def made(client: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """An image of nothing, with the record of a kept contract and a statement of its origin.

    There is nothing in it that could be asked: test_supply_sbom.py and test_contract.py ask whole
    images.
    """
    checked = datetime.now(timezone.utc)

    def verified(client: DockerClient, reference: str, *_: Any, tag: str) -> ContractRecord:
        known = obtain.reference(client.images.get(reference), tag)
        found = ContractRecord.model_validate_json(contract(known.id))
        return found.model_copy(update={"image": known, "created_at": checked})

    monkeypatch.setattr(contents, "ask", lambda *_, **__: NOTHING)
    monkeypatch.setattr(promise, "of_labels", lambda *_: None)
    monkeypatch.setattr(verify, "verify", verified)
    content = secrets.token_hex(32)
    tag = f"{REPOSITORY}:cpu-{content[:12]}"
    changes = [f"LABEL {CONTENT_LABEL}={content}", "LABEL io.gpt-frontend.profile=cpu"]
    empty = b"\0" * 10240  # an archive of nothing
    client.api.import_image_from_data(empty, REPOSITORY, tag.partition(":")[2], changes=changes)
    one = Made(tag, str(client.images.get(tag).id), tmp_path / "builder")
    record = verified(client, tag, tag=tag)
    beside.keep(one.document(beside.CONTRACT), record.model_dump_json())
    beside.keep(one.document(beside.PROVENANCE), statement(one.id))
    monkeypatch.chdir(one.home)
    yield one
    gone(client, tag)


def gone(client: DockerClient, name: str) -> None:
    from docker.errors import ImageNotFound

    with contextlib.suppress(ImageNotFound):
        client.images.remove(name)


def pushed(one: Made, served: Served, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """(the name by which it is had again, what was told on standard error)."""
    capsys.readouterr()
    verbs.push(one.tag, served.place)
    told = capsys.readouterr()
    return told.out.split()[0], told.err


def get(url: str) -> bytes:
    """As any client would ask; nothing of ours in between."""
    # It gives an index only to who names its type.
    request = urllib.request.Request(url, headers={"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
        return content


def index_of(served: Served, name: str) -> dict[str, Any]:
    """The list of what is attached, by the tag schema, since this registry has no API for it."""
    digest = name.partition("@")[2]
    with pytest.raises(urllib.error.HTTPError) as none:
        get(f"{served.url}/referrers/{digest}")
    assert none.value.code == 404
    found: dict[str, Any] = json.loads(get(f"{served.url}/manifests/{digest.replace(':', '-')}"))
    return found


def test_what_is_known_of_an_image_is_attached_to_it_byte_for_byte(
    made: Made, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    name, told = pushed(made, served, capsys)
    digest = name.partition("@")[2]
    assert "with its contract, bill of materials, provenance" in told
    content = get(f"{served.url}/manifests/{digest}")
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    assert "subject" not in json.loads(content)
    entries = index_of(served, name)["manifests"]
    assert [one["artifactType"] for one in entries] == list(referrers.TYPES.values())
    for kind, entry in zip(beside.KINDS, entries, strict=True):
        manifest = json.loads(get(f"{served.url}/manifests/{entry['digest']}"))
        assert manifest["subject"]["digest"] == digest
        assert manifest["subject"]["size"] == len(content)
        (layer,) = manifest["layers"]
        document = get(f"{served.url}/blobs/{layer['digest']}")
        assert document == made.document(kind).read_bytes()


def test_a_second_push_adds_nothing(
    made: Made, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _ = pushed(made, served, capsys)
    before, files = index_of(served, name), kept(served)
    again, _ = pushed(made, served, capsys)
    assert (again, index_of(served, name), kept(served)) == (name, before, files)


def kept(served: Served) -> set[Path]:
    """What the registry keeps; an upload that it was not sent may leave a folder behind."""
    return {one for one in served.data.rglob("*") if "_uploads" not in one.parts}


def put(url: str, content: bytes, kind: str) -> None:
    request = urllib.request.Request(url, content, headers={"Content-Type": kind}, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def test_what_another_tool_attached_stays(
    made: Made, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _ = pushed(made, served, capsys)
    index = index_of(served, name)
    first = json.loads(get(f"{served.url}/manifests/{index['manifests'][0]['digest']}"))
    foreign = {**first, "annotations": {"by": "another tool"}}
    content = json.dumps(foreign).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    kind = first["mediaType"]
    put(f"{served.url}/manifests/{digest}", content, kind)
    entry = {"mediaType": kind, "digest": digest, "size": len(content), "annotations": {"a": "b"}}
    tag = name.partition("@")[2].replace(":", "-")
    alone = {**index, "manifests": [entry], "annotations": {"c": "d"}}
    put(f"{served.url}/manifests/{tag}", json.dumps(alone).encode(), index["mediaType"])
    pushed(made, served, capsys)
    found = index_of(served, name)
    assert found["manifests"] == [entry, *index["manifests"]]
    assert found["annotations"] == {"c": "d"}


def test_where_the_documents_are_not_taken_the_image_is_pushed_all_the_same(
    client: DockerClient, made: Made, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _ = pushed(made, served, capsys)
    digest = name.partition("@")[2]
    content = get(f"{served.url}/manifests/{digest}")
    kind = json.loads(content)["mediaType"]
    put(f"{served.url}/manifests/{digest.replace(':', '-')}", content, kind)
    again, told = pushed(made, served, capsys)
    assert again == name and get(f"{served.url}/manifests/{digest}") == content
    (line,) = (one for one in told.splitlines() if "not attached" in one)
    assert "is taken by something that is no list of documents" in line


def elsewhere(
    client: DockerClient, made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """As on a machine that does not have the image, and knows nothing of it."""
    client.images.remove(made.tag)
    home = folder / "another"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


def test_an_image_is_pulled_with_all_that_is_known_of_it(
    client: DockerClient,
    made: Made,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, _ = pushed(made, served, capsys)
    home = elsewhere(client, made, tmp_path, monkeypatch)
    try:
        verbs.pull(name)
        assert "the registry has no" not in capsys.readouterr().err
        for kind in beside.KINDS:
            assert made.document(kind, home).read_bytes() == made.document(kind).read_bytes()
        # Who pulled it pushes it on, and adds nothing.
        index = index_of(served, name)
        assert pushed(made, served, capsys)[0] == name and index_of(served, name) == index
    finally:
        gone(client, name)


@pytest.mark.parametrize("kind", beside.KINDS)
def test_a_document_that_was_changed_in_the_registry_is_refused(
    client: DockerClient,
    made: Made,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    name, _ = pushed(made, served, capsys)
    document = made.document(kind).read_bytes()
    file = served.blob(f"sha256:{hashlib.sha256(document).hexdigest()}")
    assert file.read_bytes() == document
    damaged = bytearray(document)
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    home = elsewhere(client, made, tmp_path, monkeypatch)
    with pytest.raises(JobFailed, match=r"is not taken: .* gives something of the sha256"):
        verbs.pull(name)
    assert list(home.iterdir()) == []
    assert made.tag not in {tag for image in client.images.list() for tag in image.tags}


def test_an_image_that_was_pushed_bare_is_pulled_and_said_to_be(
    client: DockerClient,
    made: Made,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bench.host.supply import registry

    name = registry.push(client, client.images.get(made.tag), made.tag, served.place)
    home = elsewhere(client, made, tmp_path, monkeypatch)
    try:
        verbs.pull(name)
        told = capsys.readouterr().err
        for word in ("contract", "bill of materials", "provenance"):
            assert f"the registry has no {word} of it" in told
        record = made.document(beside.CONTRACT, home)
        assert [one.name for one in record.parent.iterdir()] == [record.name], "its own check"
    finally:
        gone(client, name)
