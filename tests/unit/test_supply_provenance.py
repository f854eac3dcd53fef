"""Where an image is from: what was asked for and what went in, and nothing of this machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import image, pins, recipe
from bench.host.mirrors import Mirrors
from bench.host.recipe import BuildRequest
from bench.host.supply import beside, building, provenance
from bench.host.supply.provenance import Built
from tests.conftest import ROOT

SECRET = "planted-secret"
REQUEST = BuildRequest(
    profile="llvm10",
    cuda_from_wheels=True,
    wheelhouse=Path(f"/home/{SECRET}/wheels"),
    private_repo=f"ssh://me:{SECRET}@host.example/repo",
    ssh=f"default=/run/{SECRET}",
    mirrors=Mirrors(git={"github": f"https://me:{SECRET}@mirror.example"}),
    mirror_folder=Path(f"/srv/{SECRET}"),
    cache_from=(f"type=registry,ref={SECRET}.example/cache",),
)
MOMENT = datetime(2026, 11, 23, 1, 2, 3, tzinfo=timezone.utc)


def built(request: BuildRequest = REQUEST, base: str = "debian:12@sha256:" + "d" * 64) -> Built:
    pinned = pins.load()
    tvm = recipe.tvm_build(request, pinned.profile("llvm10"), pinned, {})
    return Built(
        tag="gpt-frontend:llvm10-0123456789ab",
        digest="sha256:" + "a" * 64,
        content_id="c" * 64,
        profile="llvm10",
        labels={
            "org.opencontainers.image.version": "0.1.0",
            "io.gpt-frontend.private-commit": "1" * 40,
        },
        request=request,
        tvm=tvm,
        base=base,
        base_id="sha256:" + "e" * 64,
        engine="26.1.5",
        began=MOMENT,
        ended=MOMENT,
    )


def stated(**given: Any) -> dict[str, Any]:
    return provenance.statement(built(**given), pins.load(), ROOT)


def dependencies(**given: Any) -> dict[str, dict[str, Any]]:
    definition = stated(**given)["predicate"]["buildDefinition"]
    return {one["name"]: one for one in definition["resolvedDependencies"]}


def test_the_subject_is_the_image_by_digest() -> None:
    said = stated()
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    (subject,) = said["subject"]
    assert subject["digest"] == {"sha256": "a" * 64}


def test_every_field_that_the_specification_requires_is_there() -> None:
    predicate = stated()["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["buildType"] and definition["externalParameters"]["profile"] == "llvm10"
    assert details["builder"]["id"] and details["metadata"]["startedOn"] == "2026-11-23T01:02:03Z"
    for one in definition["resolvedDependencies"]:
        assert one.get("uri") or one.get("digest"), one


def test_what_went_in_is_named_by_digest() -> None:
    found, pinned = dependencies(), pins.load()
    source = pinned.sources["0.23.0"]
    assert found["tvm"]["digest"] == {"gitCommit": source.commit}
    for path, commit in source.gitlinks.items():
        assert found[f"tvm/{path}"]["digest"] == {"gitCommit": commit}
    assert found["llvm"]["digest"] == {"sha256": pinned.llvm["10.0.0"].sha256}
    assert found["private repository"] == {
        "name": "private repository",
        "uri": f"git+ssh://host.example/repo@{'1' * 40}",
        "digest": {"gitCommit": "1" * 40},
    }
    assert found["base"]["digest"] == {"sha256": "d" * 64}
    assert len(found["gpt-frontend"]["digest"]["gitCommit"]) == 40
    for lock in ("requirements.txt", "tvm-0.23.0.txt", "cuda.txt", "torch-cuda.txt"):
        content = (ROOT / "docker" / "locks" / lock).read_bytes()
        assert found[f"docker/locks/{lock}"]["digest"]["sha256"] == (
            hashlib.sha256(content).hexdigest()
        )


def test_a_base_without_a_digest_is_named_by_what_the_engine_calls_it() -> None:
    assert dependencies(base="gpt-frontend/base:bookworm")["base"]["digest"] == {"sha256": "e" * 64}


def test_nothing_of_this_machine_is_in_it() -> None:
    text = provenance.text(stated())
    assert SECRET not in text and "mirror.example" not in text
    assert "ssh://host.example/repo" in text
    assert '"wheelhouse": true' in text


def test_an_ssh_address_in_gits_short_form_is_named_without_its_user() -> None:
    said = stated(request=replace(REQUEST, private_repo=f"{SECRET}@host.example:me/it.git"))
    assert SECRET not in provenance.text(said)
    definition = said["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["private_repo"] == "ssh://host.example/me/it.git"
    uris = {one["name"]: one.get("uri") for one in definition["resolvedDependencies"]}
    assert uris["private repository"] == f"git+ssh://host.example/me/it.git@{'1' * 40}"


def test_a_file_gives_its_subject_and_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(provenance.text(stated()))
    assert provenance.subject(path) == "sha256:" + "a" * 64
    for text in ("", "[]", "{}", json.dumps({**stated(), "_type": "other"}), '{"_type": 1}'):
        path.write_text(text)
        with pytest.raises(UsageFault, match="is no statement of provenance"):
            provenance.subject(path)


def test_an_image_that_is_built_gets_its_statement_and_a_found_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Any = SimpleNamespace(
        content_id="c" * 64,
        profile="cpu",
        request=BuildRequest("cpu"),
        tvm=None,
        base=SimpleNamespace(name="debian:12", id="sha256:" + "e" * 64),
        root=ROOT,
    )
    made = image.Image("sha256:" + "b" * 64, None, "gpt-frontend:cpu-1", {}, built=True)
    client: Any = SimpleNamespace(version=lambda: {"Version": "26.1.5"})
    there: list[image.Image] = []
    monkeypatch.setattr(image, "plan", lambda *_, **__: plan)
    monkeypatch.setattr(image, "find", lambda *_: there[0] if there else None)
    monkeypatch.setattr(image, "build", lambda *_, **__: made)
    endpoint: Any = None
    path = beside.path(made.tag, beside.PROVENANCE, tmp_path)
    for _ in range(2):
        got = building.ensure(BuildRequest("cpu"), pins.load(), endpoint, client, folder=tmp_path)
        assert got == made and provenance.subject(path) == made.id
        kept = path.stat().st_mtime_ns
        there.append(made)
    assert path.stat().st_mtime_ns == kept
