"""A real engine and a real image, each made once and shared by every Docker test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.errors import UsageFault
from bench.host import base_image, image, pins
from bench.host.engine import endpoint as endpoints
from bench.host.engine.endpoint import Endpoint
from tests.conftest import cannot_run
from tests.docker import registries
from tests.docker.cage import Cage, state
from tests.docker.registries import Served

if TYPE_CHECKING:
    from docker import DockerClient


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def endpoint() -> Endpoint:
    try:
        return endpoints.find_endpoint(os.environ)
    except UsageFault as fault:
        cannot_run(f"{fault.message} ({fault.hint})")


@pytest.fixture(scope="session")
def client(endpoint: Endpoint) -> DockerClient:
    return endpoints.connect(endpoint, os.environ)


@pytest.fixture(scope="session")
def base_ref(endpoint: Endpoint, client: DockerClient) -> str:
    """The debootstrap base; made here where `invoke base-image` has not been run."""
    from docker.errors import ImageNotFound

    tag = pins.load().base_image.tag
    try:
        client.images.get(tag)
    except ImageNotFound:
        try:
            base_image.make(endpoint, None, lambda _: None)
        except UsageFault as fault:
            cannot_run(f"no base image: {fault.message} ({fault.hint})")
    return tag


@pytest.fixture(scope="session")
def built_image(endpoint: Endpoint, client: DockerClient, base_ref: str) -> image.Image:
    """The cpu image of this checkout, found or built."""
    request = image.BuildRequest(profile="cpu")
    return image.ensure(request, pins.load(), endpoint, client, made_base=True)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry that the engine can push to."""
    if not (os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://"):
        cannot_run("a registry on this machine's loopback is not another machine's")
    with registries.serving(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def cage(client: DockerClient, built_image: image.Image, tmp_path: Path) -> Iterator[Cage]:
    made = Cage(client, built_image, tmp_path)
    before = state(made)
    yield made
    assert state(made) == before
