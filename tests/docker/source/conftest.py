"""The small project, its LLVM and the servers that have them: made once for all tests here."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import pins
from bench.host.engine.endpoint import Endpoint
from tests.conftest import cannot_run
from tests.docker.source import llvm_tarball, project, servers, trial
from tests.docker.source.llvm_tarball import Archive
from tests.docker.source.project import Project
from tests.docker.source.servers import Server
from tests.docker.source.trial import Trial

if TYPE_CHECKING:
    from docker import DockerClient

PREFIX = "/planted-mirror/"


@dataclass(frozen=True)
class Forge:
    """A server in place of github.com, and what it has; tests add projects of their own."""

    server: Server
    root: Path
    files: dict[str, Path]

    @property
    def mirror(self) -> str:
        return f"{self.server.url}{PREFIX}"

    def project(self, salt: str | None = None) -> Project:
        """A project that no build has seen; with a ``salt`` its code is the same each time."""
        return project.write(self.root, f"owner-{secrets.token_hex(4)}", salt)

    def publish(self, archive: Archive) -> Archive:
        self.files[trial.path_of(archive)] = archive.path
        return archive


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """What the servers and the keys here are made with."""
    for name in ("git", "openssl", "ssh", "ssh-add", "ssh-agent", "ssh-keygen"):
        if shutil.which(name) is None:
            cannot_run(f"{name} is missing: apt-get install git openssl openssh-client")


@pytest.fixture(scope="session")
def gateway(client: DockerClient) -> str:
    """The address at which builds reach this host."""
    configs = client.networks.get("bridge").attrs["IPAM"]["Config"]
    address = next((str(one["Gateway"]) for one in configs if "Gateway" in one), "")
    try:
        with socket.create_server((address, 0)):
            return address
    except OSError as error:
        cannot_run(f"no server can listen at the engine's gateway {address!r}: {error}")


@pytest.fixture(scope="session")
def forge(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    root = tmp_path_factory.mktemp("repositories")
    files: dict[str, Path] = {}
    with servers.serve_forge(gateway, root, files, PREFIX) as server:
        yield Forge(server, root, files)


@pytest.fixture(scope="session")
def llvm(endpoint: Endpoint, base_ref: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is packed."""
    return llvm_tarball.unpacked(endpoint, base_ref, tmp_path_factory.mktemp("llvm"))


@pytest.fixture(scope="session")
def archive(llvm: Path, forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return forge.publish(llvm_tarball.pack(llvm, tmp_path_factory.mktemp("archive")))


@pytest.fixture(scope="session")
def small(forge: Forge) -> Project:
    return forge.project()


@pytest.fixture(scope="session")
def prepared(
    endpoint: Endpoint,
    client: DockerClient,
    base_ref: str,
    gateway: str,
    forge: Forge,
    small: Project,
    archive: Archive,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trial:
    """A build that could start, its toolchain there: what tests change is never that."""
    real = pins.load()
    ready = Trial(
        endpoint,
        client,
        trial.copy_of_checkout(tmp_path_factory.mktemp("checkout"), real),
        trial.pins_for(real, small, archive),
        base_ref,
        forge.mirror,
        trial.settings(gateway),
    )
    outcome = ready.run("toolchain")
    assert outcome.failure is None, outcome.told
    return ready
