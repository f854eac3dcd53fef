"""A real sshd that hands out one private repository to one key, and an agent that holds the key.

The server is a container beside the builds, so that it needs no account and no package on the
host: OpenSSH's sshd, a login shell that can do nothing but git, a host key of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.host.engine.endpoint import Endpoint
from tests.docker.source import helpers

if TYPE_CHECKING:
    from docker import DockerClient

TAG = "gpt-frontend/test-sshd"
START_TIMEOUT_S = 30

DOCKERFILE = """\
ARG BASE
FROM ${BASE}
RUN --mount=type=secret,id=ca --mount=type=secret,id=net --mount=type=secret,id=apt \\
    --mount=type=bind,source=apt-install.sh,target=/mnt/apt-install.sh <<'SHELL'
set -eu
sh /mnt/apt-install.sh git openssh-server
rm -f /etc/ssh/ssh_host_*
mkdir -p /run/sshd
useradd --home-dir /srv/git --create-home --password '*' --shell /usr/bin/git-shell git
git config --system safe.directory '*'
SHELL
"""

CONFIG = """\
HostKey /etc/ssh/host_key
AuthorizedKeysFile /srv/git/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
LogLevel VERBOSE
"""


@dataclass(frozen=True)
class SshServer:
    """One that runs. ``host_key`` is the public one, as a line of known_hosts without the host."""

    address: str
    host_key: str
    container: str
    client: DockerClient

    @property
    def known_hosts(self) -> str:
        return f"{self.address} {self.host_key}\n"

    def url(self, repository: str) -> str:
        """As one writes it: git@HOST:PATH."""
        return f"git@{self.address}:{repository}"

    def log(self) -> str:
        """What sshd told, logins among it."""
        return str(self.client.containers.get(self.container).logs().decode(errors="replace"))


def make_key(folder: Path, name: str) -> Path:
    """A new key pair; gives the private key's path. The public one is beside it."""
    path = folder / name
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"planted-{name}", "-f"]
    subprocess.run([*words, str(path)], check=True)
    return path


@contextlib.contextmanager
def serve(
    endpoint: Endpoint, client: DockerClient, base: str, root: Path, key: Path, folder: Path
) -> Iterator[SshServer]:
    """Serve the bare repositories under ``root`` to whoever has ``key``."""
    host_key = make_key(folder, f"host-{secrets.token_hex(4)}")
    public = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
    helpers.build(endpoint, DOCKERFILE, {"BASE": base}, ("--load", "--tag", TAG))
    container = client.containers.create(TAG, ["/usr/sbin/sshd", "-D", "-e"])
    try:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(root, "srv/git", filter=_as_root)
            _put(archive, "srv/git/authorized_keys", key.with_suffix(".pub").read_bytes(), 0o644)
            _put(archive, "etc/ssh/host_key", host_key.read_bytes(), 0o600)
            _put(archive, "etc/ssh/sshd_config", CONFIG.encode(), 0o644)
        container.put_archive("/", buffer.getvalue())
        container.start()
        container.reload()
        address = container.attrs["NetworkSettings"]["IPAddress"]
        server = SshServer(address, public, str(container.id), client)
        deadline = time.monotonic() + START_TIMEOUT_S
        while "listening" not in server.log():
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.1)
        yield server
    finally:
        container.remove(force=True, v=True)
        client.images.remove(TAG)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mode |= 0o555 if member.isdir() else 0o444
    return member


def _put(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


@contextlib.contextmanager
def agent(*keys: Path) -> Iterator[str]:
    """An ssh-agent with these keys; gives its socket, which SSH_AUTH_SOCK is to name."""
    # A socket's path may have 107 characters at most: pytest's folders are too deep.
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        socket = str(Path(folder, "socket"))
        process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not Path(socket).exists():
                assert time.monotonic() < deadline, "ssh-agent does not start"
                time.sleep(0.05)
            environ = {**os.environ, "SSH_AUTH_SOCK": socket}
            for key in keys:
                subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True)
            yield socket
        finally:
            process.terminate()
            process.wait()
