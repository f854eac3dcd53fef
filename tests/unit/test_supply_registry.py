"""Names of registries, and what an engine tells of a push."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host.image import CONTENT_LABEL
from bench.host.supply import registry

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "name", ["registry.example/a", "localhost:5000/a/b", "127.0.0.1:5000/a", "host:5000/me/gpt-x.y"]
)
def test_a_repository_has_a_host(name: str) -> None:
    assert registry.repository(name) == name
    assert registry.reference(f"{name}@{DIGEST}") == (name, DIGEST)


@pytest.mark.parametrize(
    "name", ["", "gpt-frontend", "me/gpt-frontend", "host.example/a:tag", "https://host.example/a"]
)
def test_what_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageFault, match="is no repository of a registry"):
        registry.repository(name)


@pytest.mark.parametrize(
    "name", ["host.example/a", "host.example/a:tag", "host.example/a@sha256:1"]
)
def test_a_pull_names_a_digest(name: str) -> None:
    with pytest.raises(UsageFault, match="names no digest"):
        registry.reference(name)


def client(*events: dict[str, Any]) -> Any:
    removed: list[str] = []
    return SimpleNamespace(
        removed=removed,
        images=SimpleNamespace(remove=removed.append),
        api=SimpleNamespace(push=lambda *_, **__: iter(events)),
    )


IMAGE: Any = SimpleNamespace(tag=lambda *_, **__: True)


@pytest.mark.parametrize(
    "last",
    [
        {"aux": {"Tag": "cpu-1", "Digest": DIGEST, "Size": 400}},
        {"status": f"cpu-1: digest: {DIGEST} size: 400"},  # as Docker 26 with containerd's store
    ],
)
def test_a_push_ends_with_the_digest_and_leaves_no_name_behind(last: dict[str, Any]) -> None:
    engine = client({"status": "Pushed", "id": "1"}, last)
    told: list[str] = []
    said = registry.push(engine, IMAGE, "gpt-frontend:cpu-1", "host.example/a", told.append)
    assert said == f"host.example/a@{DIGEST}" and told[0] == "Pushed 1"
    assert engine.removed == ["host.example/a:cpu-1"]


@pytest.mark.parametrize(
    ("event", "said"),
    [({"error": "denied\x1b[2J"}, "denied"), ({"status": "done"}, "does not say under which")],
)
def test_a_push_that_fails_says_why_and_leaves_no_name_behind(
    event: dict[str, Any], said: str
) -> None:
    engine = client(event)
    with pytest.raises(JobFailed, match=said) as caught:
        registry.push(engine, IMAGE, "gpt-frontend:cpu-1", "host.example/a")
    assert "\x1b" not in caught.value.message and engine.removed


def test_an_images_own_tag_is_made_of_its_labels() -> None:
    labels = {"io.gpt-frontend.profile": "cpu", CONTENT_LABEL: "0123456789abcdef" * 4}
    assert registry.tag_of(labels) == "gpt-frontend:cpu-0123456789ab"
    for wrong in (
        {},
        {**labels, CONTENT_LABEL: "x"},
        {**labels, "io.gpt-frontend.profile": "../a"},
    ):
        with pytest.raises(UsageFault, match="no labels of ours"):
            registry.tag_of(wrong)
