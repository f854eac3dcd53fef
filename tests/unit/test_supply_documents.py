"""What is known of an image: which documents are its own, and what becomes of others."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import pins
from bench.host.supply import beside, contents, documents, sbom
from bench.host.supply.contents import Contents
from bench.record import ImageRef
from tests.unit.archives import TAG, bill, contract, statement

ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
KNOWN = ImageRef(id=ONE, digest=None, tag=TAG, labels={})
MAKE = {beside.CONTRACT: contract, beside.SBOM: bill, beside.PROVENANCE: statement}


@pytest.mark.parametrize("kind", beside.KINDS)
def test_a_document_is_of_the_image_that_it_names(kind: str) -> None:
    known = {kind: MAKE[kind](ONE)}
    assert documents.wrong(known, frozenset({ONE, OTHER})) is None
    assert "is of another image" in (documents.wrong(known, frozenset({OTHER})) or "")


@pytest.mark.parametrize("kind", beside.KINDS)
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 9999])
def test_what_is_no_document_is_refused_in_words(kind: str, content: bytes) -> None:
    said = documents.wrong({kind: content}, frozenset({ONE}))
    assert said and "\n" not in said
    assert documents.dated(kind, content) == datetime.fromtimestamp(0, timezone.utc)


def test_a_contract_that_was_not_kept_is_none() -> None:
    known = {beside.CONTRACT: contract(ONE, ok=False)}
    assert documents.wrong(known, frozenset({ONE})) == "its contract was not kept"


def test_a_bill_is_its_images_by_either_name() -> None:
    """An engine may list an image by a registry's digest, which another engine does not know."""
    image = ImageRef(id=ONE, digest=OTHER, tag=TAG, labels={})
    nothing = Contents(os_release={}, packages=(), distributions=())
    made = sbom.Bill(image, sbom.created(""), nothing, pins.load())
    content = sbom.write(made, "json").encode()
    for one in (ONE, OTHER):
        assert documents.wrong({beside.SBOM: content}, frozenset({one})) is None
    assert documents.wrong({beside.SBOM: content}, frozenset({"sha256:" + "3" * 64}))


def test_a_document_says_when_it_was_made() -> None:
    said = json.dumps(
        {"predicate": {"runDetails": {"metadata": {"finishedOn": "2026-03-01T10:00:00Z"}}}}
    )
    march = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
    assert documents.dated(beside.PROVENANCE, said.encode()) == march
    january = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for kind in (beside.CONTRACT, beside.SBOM):
        assert documents.dated(kind, MAKE[kind](ONE)) == january


def test_documents_are_laid_out_and_those_of_another_image_go(tmp_path: Path) -> None:
    for kind in beside.KINDS:
        beside.keep(beside.path(TAG, kind, tmp_path), MAKE[kind](OTHER))
    given = {beside.CONTRACT: contract(ONE)}
    documents.lay_out(given, TAG, frozenset({ONE}), tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [
        beside.path(TAG, beside.CONTRACT, tmp_path).name
    ]
    assert beside.path(TAG, beside.CONTRACT, tmp_path).read_bytes() == contract(ONE)


def test_a_document_of_the_very_image_stays_where_none_came(tmp_path: Path) -> None:
    """Where an image is from cannot be found out again."""
    where = beside.keep(beside.path(TAG, beside.PROVENANCE, tmp_path), statement(ONE))
    documents.lay_out({}, TAG, frozenset({ONE}), tmp_path)
    assert where.read_bytes() == statement(ONE)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which images were asked what is in them."""
    found: list[str] = []

    def ask(client: Any, image: str, **_: Any) -> Contents:
        found.append(image)
        return Contents(os_release={}, packages=(), distributions=())

    monkeypatch.setattr(contents, "ask", ask)
    return found


def of(folder: Path) -> dict[str, bytes]:
    nothing: Any = None
    image: Any = SimpleNamespace(attrs={})
    return documents.of(nothing, image, KNOWN, pins.load(), folder)


def test_what_is_pushed_is_what_lies_there(tmp_path: Path, asked: list[str]) -> None:
    for kind in beside.KINDS:
        beside.keep(beside.path(TAG, kind, tmp_path), MAKE[kind](ONE))
    assert of(tmp_path) == {kind: MAKE[kind](ONE) for kind in beside.KINDS}
    assert asked == []


@pytest.mark.parametrize("there", [None, OTHER])
def test_a_bill_that_is_not_there_is_made_and_an_earlier_builds_origin_left_out(
    tmp_path: Path, asked: list[str], there: str | None
) -> None:
    beside.keep(beside.path(TAG, beside.CONTRACT, tmp_path), contract(ONE))
    if there:
        for kind in (beside.SBOM, beside.PROVENANCE):
            beside.keep(beside.path(TAG, kind, tmp_path), MAKE[kind](there))
    found = of(tmp_path)
    assert set(found) == {beside.CONTRACT, beside.SBOM} and asked == [ONE]
    assert documents.wrong(found, frozenset({ONE})) is None
    assert beside.path(TAG, beside.SBOM, tmp_path).read_bytes() == found[beside.SBOM]


def test_without_a_kept_contract_nothing_is_given(tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(UsageFault, match="has no record of its contract"):
        of(tmp_path)
    assert asked == []


def test_a_record_from_elsewhere_names_the_image_by_its_digest(tmp_path: Path) -> None:
    """Another engine called it otherwise; the registry's digest is the same."""
    beside.keep(beside.path(TAG, beside.CONTRACT, tmp_path), contract(ONE))
    here = ImageRef(id=OTHER, digest=ONE, tag=TAG, labels={})
    assert documents.contract(here, tmp_path) == contract(ONE)
