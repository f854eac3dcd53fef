"""Documents attached to an image in a registry: listed, found again, and held to their image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import JobFailed
from bench.host.distribution import Altered, Repository
from bench.host.supply import beside, reach, referrers, registry
from bench.host.web import CannotAsk
from tests.unit import writable_registry
from tests.unit.archives import bill, contract, statement
from tests.unit.writable_registry import INDEX, Registry, digest

TAG = "gpt-frontend:cpu-0123456789ab"
STEM = "cpu-0123456789ab"


@pytest.fixture(autouse=True, scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whose tests these are is logged in nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))
        yield


@pytest.fixture(params=[True, False], ids=["api", "tag schema"])
def state(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with writable_registry.serving(Registry(api=request.param)) as made:
        yield made


@pytest.fixture
def old() -> Iterator[Registry]:
    """A registry that knows nothing of referrers, as most did before 2024."""
    with writable_registry.serving(Registry(api=False)) as made:
        yield made


def there(state: Registry) -> Repository:
    return reach.repository(state.place, {}, {})


def documents(of: str) -> dict[str, bytes]:
    return {
        beside.CONTRACT: contract(of),
        beside.SBOM: bill(of),
        beside.PROVENANCE: statement(of),
    }


def attached(state: Registry) -> tuple[referrers.Subject, dict[str, bytes]]:
    """An image with its documents, as a push leaves them."""
    image = referrers.subject(there(state), state.image())
    given_ones = documents(image.digest)
    assert referrers.attach(there(state), image, given_ones, STEM) == beside.KINDS
    return image, given_ones


def test_what_is_attached_is_had_again_and_the_image_stays_as_it_is(state: Registry) -> None:
    before = dict(state.manifests)
    image, known = attached(state)
    assert referrers.attached(there(state), image) == known
    assert before.items() <= state.manifests.items()
    types = [entry["artifactType"] for entry in referrers.listed(there(state), image)]
    assert types == list(referrers.TYPES.values())
    tag = image.digest.replace(":", "-")
    assert (tag in state.manifests) == (not state.api)


def test_attaching_again_writes_nothing(state: Registry) -> None:
    image, known = attached(state)
    written = len(state.written())
    assert referrers.attach(there(state), image, known, STEM) == ()
    assert len(state.written()) == written


def test_a_listing_in_pages_is_read_to_its_end() -> None:
    with writable_registry.serving(Registry(page=1)) as state:
        image, known = attached(state)
        assert referrers.attached(there(state), image) == known


def test_an_artefact_says_what_it_is_of(state: Registry) -> None:
    image, known = attached(state)
    for kind, entry in zip(beside.KINDS, referrers.listed(there(state), image), strict=True):
        made = json.loads(state.manifests[entry["digest"]][0])
        assert made["subject"] == image.descriptor
        assert made["config"]["digest"] == digest(b"{}")
        (layer,) = made["layers"]
        assert state.blobs[layer["digest"]] == known[kind] and layer["size"] == len(known[kind])
        assert layer["annotations"] == {"org.opencontainers.image.title": f"{STEM}{kind}"}
        assert entry["annotations"] == made["annotations"]
        assert entry["artifactType"] == made["artifactType"] == layer["mediaType"]


def foreign(state: Registry, image: referrers.Subject) -> dict[str, Any]:
    """An entry of another tool's bill of materials, which is no concern of ours."""
    content = json.dumps(
        {
            "artifactType": referrers.TYPES[beside.SBOM],
            "subject": dict(image.descriptor),
            "layers": [],
        }
    ).encode()
    return {
        "mediaType": writable_registry.MANIFEST,
        "digest": state.keep(content),
        "size": len(content),
        "artifactType": referrers.TYPES[beside.SBOM],
        "annotations": {"by": "another tool"},
    }


def test_another_tools_bill_is_left_alone(state: Registry) -> None:
    image = referrers.subject(there(state), state.image())
    entry = foreign(state, image)
    if not state.api:
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [entry],
            "annotations": {"a": "b"},
        }
        state.keep(json.dumps(index).encode(), INDEX, image.tag)
    known = documents(image.digest)
    referrers.attach(there(state), image, known, STEM)
    assert referrers.attached(there(state), image) == known
    assert len(referrers.listed(there(state), image)) == 4
    if not state.api:
        kept = json.loads(state.manifests[image.tag][0])
        assert kept["manifests"][0] == entry and kept["annotations"] == {"a": "b"}


ENTRIES = st.lists(
    st.dictionaries(
        st.sampled_from(["mediaType", "digest", "size", "annotations", "x"]),
        st.one_of(st.none(), st.integers(), st.text(max_size=5), st.just("sha256:" + "5" * 64)),
    ),
    max_size=4,
)


class Memory:
    """A repository of nothing but one tag."""

    def __init__(self, index: dict[str, Any]) -> None:
        self.content = json.dumps(index).encode()

    def manifest(self, reference: str) -> tuple[bytes, str]:
        return self.content, INDEX

    def put_manifest(self, reference: str, content: bytes, kind: str) -> None:
        self.content = content


@given(ENTRIES)
def test_no_entry_of_others_is_lost_or_changed(entries: list[dict[str, Any]]) -> None:
    held: Any = Memory({"mediaType": INDEX, "manifests": entries, "more": [1]})
    image = referrers.Subject({"digest": "sha256:" + "1" * 64}, frozenset())
    new = [{"digest": "sha256:" + "2" * 64}]
    for _ in range(2):
        referrers._list(held, image, new)
        assert json.loads(held.content) == {
            "mediaType": INDEX,
            "manifests": [*entries, *new],
            "more": [1],
        }


def test_a_list_that_another_client_overwrites_is_written_again(old: Registry) -> None:
    image = referrers.subject(there(old), old.image())
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [foreign(old, image)]}
    old.overwrites = json.dumps(index).encode()
    referrers.attach(there(old), image, documents(image.digest), STEM)
    assert not old.overwrites
    assert len(referrers.listed(there(old), image)) == 4


def test_a_tag_that_is_no_list_is_not_overwritten(old: Registry) -> None:
    image = referrers.subject(there(old), old.image())
    taken = json.dumps({"config": {}}).encode()
    old.keep(taken, writable_registry.MANIFEST, image.tag)
    with pytest.raises(CannotAsk, match="no list of documents"):
        referrers.attach(there(old), image, documents(image.digest), STEM)
    assert old.manifests[image.tag][0] == taken


def test_a_registry_that_takes_no_artefacts_says_why_in_one_line() -> None:
    with writable_registry.serving(Registry(refuses=400)) as state:
        image = referrers.subject(there(state), state.image())
        with pytest.raises(CannotAsk, match=r"answered 400 .*MANIFEST_INVALID: not here") as why:
            referrers.attach(there(state), image, documents(image.digest), STEM)
        assert "\n" not in str(why.value)
        assert referrers.attached(there(state), image) == {}


def test_of_two_records_the_newer_is_taken(state: Registry) -> None:
    image, known = attached(state)
    newer = known[beside.CONTRACT].replace(b"2026-01-01", b"2026-02-01")
    assert newer != known[beside.CONTRACT]
    assert referrers.attach(there(state), image, {beside.CONTRACT: newer}, STEM)
    assert referrers.attached(there(state), image) == {**known, beside.CONTRACT: newer}
    older = known[beside.CONTRACT].replace(b"2026-01-01", b"2025-01-01")
    referrers.attach(there(state), image, {beside.CONTRACT: older}, STEM)
    assert referrers.attached(there(state), image)[beside.CONTRACT] == newer


OTHER = "sha256:" + "0" * 64


@pytest.mark.parametrize("kind", beside.KINDS)
def test_a_document_of_another_image_is_refused(state: Registry, kind: str) -> None:
    image = referrers.subject(there(state), state.image())
    referrers.attach(there(state), image, {kind: documents(OTHER)[kind]}, STEM)
    with pytest.raises(Altered, match="of another image"):
        referrers.attached(there(state), image)


def test_a_record_of_a_broken_contract_is_refused(state: Registry) -> None:
    image = referrers.subject(there(state), state.image())
    broken = {beside.CONTRACT: contract(image.digest, ok=False)}
    referrers.attach(there(state), image, broken, STEM)
    with pytest.raises(Altered, match="was not kept"):
        referrers.attached(there(state), image)


@pytest.mark.parametrize("kind", beside.KINDS)
@pytest.mark.parametrize("what", ["blob", "manifest"])
def test_a_byte_that_was_changed_in_the_registry_is_noticed(
    state: Registry, kind: str, what: str
) -> None:
    image, known = attached(state)
    entries = referrers.listed(there(state), image)
    entry = entries[beside.KINDS.index(kind)]["digest"]
    if what == "blob":
        name = digest(known[kind])
        state.blobs[name] = state.blobs[name].replace(b"2", b"3", 1)
    else:
        content, media = state.manifests[entry]
        state.manifests[entry] = (
            content.replace(b"2026", b"2027").replace(b"1970", b"1971"),
            media,
        )
    with pytest.raises(Altered, match="gives something of the sha256"):
        referrers.attached(there(state), image)
    client: Any = Engine()
    with pytest.raises(JobFailed, match="is not taken") as failed:
        registry.attached(client, f"{state.place}@{image.digest}", {})
    assert failed.value.hint


class Engine:
    """What of an engine is asked here."""

    def info(self) -> dict[str, Any]:
        return {}


def test_an_artefact_of_another_image_is_refused_where_it_is_listed(old: Registry) -> None:
    image, _ = attached(old)
    other = referrers.subject(there(old), old.image("another"))
    entry = referrers.listed(there(old), image)[0]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    old.keep(json.dumps(index).encode(), INDEX, other.tag)
    with pytest.raises(Altered, match="names another image"):
        referrers.attached(there(old), other)


def changed(state: Registry, digest_: str, change: Callable[[dict[str, Any]], None]) -> str:
    made = json.loads(state.manifests[digest_][0])
    change(made)
    return state.keep(json.dumps(made).encode())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made.update(layers=[]), "not one file"),
        (lambda made: made["layers"][0].update(mediaType="text/plain"), "another kind of file"),
        (lambda made: made["layers"][0].update(digest="../secret"), "another kind of file"),
    ],
)
def test_an_artefact_of_another_form_is_refused(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with writable_registry.serving(Registry()) as state:
        image, _ = attached(state)
        entry = referrers.listed(there(state), image)[0]["digest"]
        changed(state, entry, change)
        del state.manifests[entry]
        with pytest.raises(Altered, match=said):
            referrers.attached(there(state), image)


def test_the_image_below_an_index_is_the_subject(state: Registry) -> None:
    image = state.image()
    entries = [
        {"digest": image, "platform": {"os": "linux"}},
        {"digest": state.image("attestation"), "platform": {"os": "unknown"}},
    ]
    index = state.keep(json.dumps({"manifests": entries}).encode(), INDEX)
    found = referrers.subject(there(state), index)
    assert found.digest == image and {index, image} < found.digests
    entries[1]["platform"] = {"os": "linux"}
    index = state.keep(json.dumps({"manifests": entries}).encode(), INDEX)
    with pytest.raises(CannotAsk, match="an index of 2 images"):
        referrers.subject(there(state), index)
