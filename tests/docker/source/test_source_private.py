"""A private repository by ssh: only with the key, only from the pinned host, no trace of the key.

The server is a real sshd, the key is in a real ssh-agent, and the builds get it as users' do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.errors import UsageFault
from bench.host import image
from bench.host.engine.endpoint import Endpoint
from bench.host.supply import rebuild as labelled
from bench.host.supply import sbom
from tests.docker.source import ssh, traces
from tests.docker.source.project import commit
from tests.docker.source.ssh import SshServer
from tests.docker.source.trial import Trial

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "me/private-models.git"
CONTENT = "what nobody else may read"
NOBODYS = "1" * 40  # a commit


@dataclass(frozen=True)
class Private:
    """A server with one private repository, and the key to it."""

    server: SshServer
    repository: Path
    head: str
    key: Path

    @property
    def url(self) -> str:
        return self.server.url(REPOSITORY)


@pytest.fixture(scope="module")
def private(
    endpoint: Endpoint,
    client: DockerClient,
    base_ref: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Private]:
    folder = tmp_path_factory.mktemp("private")
    repository = folder / "repositories" / REPOSITORY
    repository.parent.mkdir(parents=True)
    head = commit(repository, {"model.py": f"# {CONTENT}\n"})
    key = ssh.make_key(folder, "user-key")
    root = folder / "repositories"
    with ssh.serve(endpoint, client, base_ref, root, key, folder) as server:
        yield Private(server, repository, head, key)


@pytest.fixture(scope="module")
def agent(private: Private) -> Iterator[str]:
    with ssh.agent(private.key) as socket:
        yield socket


@pytest.fixture(scope="module")
def empty_agent() -> Iterator[str]:
    with ssh.agent() as socket:
        yield socket


def knowing(trial: Trial, folder: Path, socket: str, known_hosts: str) -> Trial:
    """The build of a user with this agent and these known hosts."""
    (folder / ".ssh").mkdir()
    (folder / ".ssh" / "known_hosts").write_text(known_hosts)
    environ = {
        **trial.environ,
        "SSH_AUTH_SOCK": socket,
        "HOME": str(folder),
        # buildx is perhaps installed for the real user alone.
        "DOCKER_CONFIG": os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker")),
    }
    return trial.but(environ=environ)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the provenance of the image is kept."""
    return tmp_path_factory.mktemp("beside")


@pytest.fixture(scope="module")
def made(
    prepared: Trial,
    private: Private,
    agent: str,
    client: DockerClient,
    beside: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[image.Image]:
    """The image with the private repository in it."""
    home = tmp_path_factory.mktemp("home")
    build = knowing(prepared, home, agent, private.server.known_hosts)
    made = build.image(beside, ssh="default", private_repo=private.url, private_ref="main")
    yield made
    client.images.remove(made.tag)


def test_repository_is_in_the_image_at_its_commit(
    made: image.Image, private: Private, client: DockerClient
) -> None:
    folder = "/opt/private/private-models"
    script = f"cat {folder}/model.py {folder}/.git/HEAD; find {folder} -name FETCH_HEAD"
    told = client.containers.run(made.id, ["sh", "-c", script], remove=True).decode()
    assert told == f"# {CONTENT}\n{private.head}\n"
    assert "Accepted key ED25519" in private.server.log()
    assert private.head in made.labels.values()


def traces_of(private: Private, agent: str) -> list[str]:
    """What may be nowhere: both halves of the key, the agent's socket, the host's key."""
    lines = private.key.read_text().splitlines()
    assert lines[0] == "-----BEGIN OPENSSH PRIVATE KEY-----"
    public = private.key.with_suffix(".pub").read_text().split()
    # The first line of a key is the same in all of them, so that only what is random is looked for.
    return [*lines[2:-1], public[1], public[2], agent, private.server.host_key.split()[1]]


def test_no_trace_of_the_key_in_provenance_or_bill(
    made: image.Image, prepared: Trial, private: Private, agent: str, beside: Path, tmp_path: Path
) -> None:
    bill = prepared.bill(made, tmp_path)
    written = [sbom.write(bill, form) for form in sbom.FORMATS]
    stated = [path.read_text() for path in beside.iterdir() if path.is_file()]
    assert len(stated) == 1, "there is no provenance, or something else beside it"
    # Both tell of the repository, so that they were looked into; neither says what is in it.
    assert private.head in stated[0] and private.head in written[0]
    for text in (*written, *stated):
        assert [mark for mark in (*traces_of(private, agent), CONTENT) if mark in text] == []


def test_no_trace_of_the_key_in_any_layer(
    made: image.Image, private: Private, agent: str, client: DockerClient, tmp_path: Path
) -> None:
    found = traces.found(client, made.id, [*traces_of(private, agent), CONTENT], tmp_path)
    assert [place for place in found if not place.startswith(CONTENT)] == []
    assert any("model.py" in place for place in found), "the search finds nothing"


def test_image_with_the_repository_comes_out_the_same(
    made: image.Image, prepared: Trial, private: Private, agent: str, tmp_path: Path
) -> None:
    """As by `verify-image --rebuild --ssh default --private-repo URL`."""
    build = knowing(prepared, tmp_path, agent, private.server.known_hosts)
    asked = labelled.asked(made.labels, build.pins, private.url)
    assert asked["private_ref"] == private.head
    outcome = build.again(
        made, tmp_path, ssh="default", private_repo=private.url, private_ref=private.head
    )
    assert outcome.record.same, outcome.record.differences[:20]


def test_new_commit_makes_another_image(
    made: image.Image, prepared: Trial, private: Private, agent: str, tmp_path: Path
) -> None:
    build = knowing(prepared, tmp_path, agent, private.server.known_hosts)
    named = {"ssh": "default", "private_repo": private.url}
    same = build.plan(**named, private_ref="main")
    assert same.tag == made.tag
    assert build.plan(**named, private_ref="0" * 40).tag != made.tag


def test_without_a_key_nothing_is_built(
    prepared: Trial, private: Private, empty_agent: str, tmp_path: Path
) -> None:
    build = knowing(prepared, tmp_path, empty_agent, private.server.known_hosts)
    named = {"ssh": "default", "private_repo": private.url}
    with pytest.raises(UsageFault) as fault:
        build.plan(**named, private_ref="main")
    assert private.url in fault.value.message
    assert "Permission denied" in fault.value.message
    # A whole commit is not asked for beforehand: the build itself is refused. Nobody has this one,
    # so that nothing built before can serve.
    failed = build.run("private", **named, private_ref=NOBODYS)
    assert "Permission denied (publickey)" in failed.told
    assert "ssh-add" in failed.told


def test_without_an_agent_the_option_is_named(prepared: Trial, private: Private) -> None:
    with pytest.raises(UsageFault) as fault:
        prepared.plan(private_repo=private.url, private_ref=private.head)
    assert "--ssh default" in str(fault.value.hint)


def test_host_with_another_key_than_the_pinned_one_is_refused(
    prepared: Trial, private: Private, agent: str, tmp_path: Path
) -> None:
    other = ssh.make_key(tmp_path, "other-host").with_suffix(".pub").read_text().split()[:2]
    pinned = f"{private.server.address} {' '.join(other)}\n"
    build = knowing(prepared, tmp_path, agent, pinned)
    named = {"ssh": "default", "private_repo": private.url}
    failed = build.run("private", **named, private_ref=NOBODYS)
    assert "Host key verification failed" in failed.told
    before = private.server.log().count("Accepted publickey")
    with pytest.raises(UsageFault, match="Host key verification failed"):
        build.plan(**named, private_ref="main")
    assert private.server.log().count("Accepted publickey") == before


def test_host_that_nobody_knows_is_refused(
    prepared: Trial, private: Private, agent: str, tmp_path: Path
) -> None:
    build = knowing(prepared, tmp_path, agent, "")
    named = {"ssh": "default", "private_repo": private.url}
    with pytest.raises(UsageFault) as fault:
        build.image(**named, private_ref=private.head)
    assert f"host key of {private.server.address} is not known" in fault.value.message
    assert "ssh-keyscan" in str(fault.value.hint)
