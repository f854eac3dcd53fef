"""A small image through a real registry (Debian's docker-registry), by digest."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from bench.errors import JobFailed
from bench.host.image import CONTENT_LABEL, REPOSITORY
from bench.host.supply import obtain, registry
from bench.record import ImageRef
from tests.docker.registries import Served

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture
def place(served: Served) -> str:
    return served.place


@pytest.fixture
def pushed(client: DockerClient, place: str) -> Iterator[tuple[ImageRef, str]]:
    """An image that was built elsewhere: in the registry, and no more in the engine."""
    content = secrets.token_hex(32)
    tag = f"{REPOSITORY}:cpu-{content[:12]}"
    changes = [f"LABEL {CONTENT_LABEL}={content}", "LABEL io.gpt-frontend.profile=cpu"]
    empty = b"\0" * 10240  # an archive of nothing
    client.api.import_image_from_data(empty, REPOSITORY, tag.partition(":")[2], changes=changes)
    there = client.images.get(tag)
    known = obtain.reference(there, tag)
    before = set(there.tags)
    try:
        name = registry.push(client, there, registry.tag_of(there.labels), place)
        assert set(client.images.get(tag).tags) == before, "the engine kept the registry's name"
    finally:
        client.images.remove(tag)
    yield known, name
    from docker.errors import ImageNotFound

    with contextlib.suppress(ImageNotFound):
        client.images.remove(name)


def test_a_pushed_image_is_had_again_by_its_digest(
    client: DockerClient, pushed: tuple[ImageRef, str]
) -> None:
    known, name = pushed
    assert isinstance(obtain.present(client, known), str)
    got = registry.pull(client, name)
    assert registry.tag_of(got.labels) == known.tag and got.labels == known.labels
    assert name.endswith(obtain.found(got, known.tag).image.digest or "nothing")


def test_the_image_of_a_record_is_pulled_as_rerun_does(
    client: DockerClient, place: str, pushed: tuple[ImageRef, str]
) -> None:
    known, name = pushed
    wanted = known.model_copy(update={"digest": name.partition("@")[2]})

    def pulled() -> obtain.Found:
        return obtain.found(registry.pull(client, f"{place}@{wanted.digest}"), wanted.tag)

    got = obtain.obtain(wanted, [("pulled", pulled)], allow_other=False)
    assert got.same and got.image.digest == wanted.digest


def test_a_digest_that_the_registry_does_not_have_is_said_so(
    client: DockerClient, place: str
) -> None:
    with pytest.raises(JobFailed, match=f"pulling {place}@sha256:0"):
        registry.pull(client, f"{place}@sha256:{'0' * 64}")


def test_a_registry_that_does_not_answer_is_said_so(
    client: DockerClient, pushed: tuple[ImageRef, str]
) -> None:
    with pytest.raises(JobFailed, match="pulling 127"):
        registry.pull(client, f"127.0.0.1:1/a@sha256:{'0' * 64}")
