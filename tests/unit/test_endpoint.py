"""Which engine is found, and what is said when none is, against a daemon of a few lines."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bench.errors import UsageFault
from bench.host.engine import endpoint
from bench.host.engine.endpoint import Endpoint, connect, find_endpoint


class _Daemon(BaseHTTPRequestHandler):
    """Answers /version, which is all that a client asks when it connects."""

    def do_GET(self) -> None:
        body = json.dumps({"ApiVersion": "1.45", "Version": "26.1.5"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"  # a Unix socket has no address

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "docker.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), _Daemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker configuration of our own, whose current context's socket is the path given."""
    socket = tmp_path / "context.sock"
    config = tmp_path / "config"
    # The docker program names a context's folder by the sha256 of its name, here "test".
    name = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    meta = config / "contexts" / "meta" / name
    meta.mkdir(parents=True)
    (config / "config.json").write_text(json.dumps({"currentContext": "test"}))
    (meta / "meta.json").write_text(
        json.dumps(
            {"Name": "test", "Metadata": {}, "Endpoints": {"docker": {"Host": f"unix://{socket}"}}}
        )
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    return socket


def test_docker_host_alone_counts_when_set(daemon: Path, context: Path) -> None:
    os.link(daemon, context)
    url = f"unix://{daemon}"
    assert find_endpoint({"DOCKER_HOST": url}) == Endpoint(url, "DOCKER_HOST")
    with pytest.raises(UsageFault) as caught:
        find_endpoint({"DOCKER_HOST": "unix:///nowhere.sock"}, private_socket=daemon)
    assert "DOCKER_HOST" in caught.value.message and str(context) not in caught.value.message
    assert "DOCKER_HOST" in str(caught.value.hint)


def test_current_context_comes_before_the_private_engine(daemon: Path, context: Path) -> None:
    private = daemon
    os.link(daemon, context)
    found = find_endpoint({}, private_socket=private)
    assert found == Endpoint(f"unix://{context}", "docker context test")


def test_private_engine_where_the_context_does_not_answer(daemon: Path, context: Path) -> None:
    found = find_endpoint({}, private_socket=daemon)
    assert found == Endpoint(f"unix://{daemon}", "docker/engine.sh")


def test_no_engine_says_what_was_tried(tmp_path: Path, context: Path) -> None:
    with pytest.raises(UsageFault) as caught:
        find_endpoint({}, private_socket=tmp_path / "none.sock")
    assert str(context) in caught.value.message
    assert str(tmp_path / "none.sock") in caught.value.message
    assert "sudo make engine" in str(caught.value.hint) and "--engine local" in str(
        caught.value.hint
    )


def test_unknown_context_is_refused(context: Path) -> None:
    with pytest.raises(UsageFault, match="no docker context elsewhere"):
        find_endpoint({"DOCKER_CONTEXT": "elsewhere"})


def test_socket_without_a_daemon_behind_it(daemon: Path, tmp_path: Path) -> None:
    import socket

    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    with pytest.raises(UsageFault, match="nothing listens there"):
        connect(Endpoint(f"unix://{dead}", "test"))


def test_permission_denied_says_who_can_help(monkeypatch: pytest.MonkeyPatch) -> None:
    import docker
    from docker.errors import DockerException

    def refuse(**_: object) -> None:
        raise DockerException("('Connection aborted.', PermissionError(13, 'Permission denied'))")

    monkeypatch.setattr(docker, "DockerClient", refuse)
    with pytest.raises(UsageFault, match="permission denied") as caught:
        find_endpoint({"DOCKER_HOST": "unix:///var/run/docker.sock"})
    assert "usermod -aG docker" in str(caught.value.hint)
    with pytest.raises(UsageFault) as caught:
        connect(Endpoint("unix:///run/x.sock", "docker/engine.sh"))
    assert "sudo make engine" in str(caught.value.hint)


def test_missing_sdk_is_told_from_the_folder_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    monkeypatch.setitem(sys.modules, "docker", types.ModuleType("docker"))
    with pytest.raises(UsageFault, match="SDK") as caught:
        find_endpoint({})
    assert caught.value.hint == "make setup"


def test_docker_program_is_sent_to_the_same_engine() -> None:
    environ = {"PATH": "/bin", "DOCKER_CONTEXT": "other", "DOCKER_HOST": "unix:///old"}
    used = Endpoint("unix:///new", "test").cli_environ(environ)
    assert used == {"PATH": "/bin", "DOCKER_HOST": "unix:///new"}


def test_private_socket_is_the_one_that_the_script_makes() -> None:
    script = Path(__file__).resolve().parents[2] / "docker" / "engine.sh"
    status = subprocess.run([str(script), "status"], capture_output=True, text=True)
    assert f"unix://{endpoint.PRIVATE_SOCKET}" in status.stdout.split()
