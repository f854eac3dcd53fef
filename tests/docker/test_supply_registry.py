"""A small image through a real registry (Debian's docker-registry), by digest."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.errors import JobFailed
from bench.host.image import CONTENT_LABEL, REPOSITORY
from bench.host.supply import obtain, registry
from bench.record import ImageRef
from tests.conftest import cannot_run

if TYPE_CHECKING:
    from docker import DockerClient

CONFIG = """version: 0.1
storage:
  filesystem:
    rootdirectory: {data}
http:
  addr: 127.0.0.1:{port}
log:
  level: warn
"""


def program(folder: Path) -> str:
    """The registry's program: installed, or out of Debian's package, which is not installed."""
    found = shutil.which("docker-registry")
    if found:
        return found
    unpacked = folder / "usr" / "bin" / "docker-registry"
    fetch = (["apt-get", "download", "docker-registry"], ["apt-get", "update", "-qq"])
    for commands in ((fetch[0],), (fetch[1], fetch[0])):  # the lists may be there, and be old
        if all(_ran(command, folder) for command in commands):
            (package,) = folder.glob("docker-registry_*.deb")
            subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
            return str(unpacked)
    cannot_run("no docker-registry, and apt-get download does not have it")


def _ran(command: list[str], folder: Path) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on loopback, which an engine of this machine takes without TLS."""
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(CONFIG.format(data=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program(folder), "serve", str(config)], stdout=log, stderr=log)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}/me/gpt-frontend"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def pushed(client: DockerClient, place: str) -> Iterator[tuple[ImageRef, str]]:
    """An image that was built elsewhere: in the registry, and no more in the engine."""
    if not (os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://"):
        cannot_run("a registry on this machine's loopback is not another machine's")
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
