"""A real registry on loopback: Debian's docker-registry, which knows nothing of referrers."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import cannot_run

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


@dataclass(frozen=True)
class Served:
    """A repository of it, which an engine of this machine takes without TLS, and its files."""

    place: str
    data: Path

    @property
    def url(self) -> str:
        """Of the repository, by the registry's API."""
        host, _, name = self.place.partition("/")
        return f"http://{host}/v2/{name}"

    def blob(self, digest: str) -> Path:
        """The file in which it keeps a blob or a manifest."""
        algorithm, _, value = digest.partition(":")
        blobs = self.data / "docker" / "registry" / "v2" / "blobs"
        return blobs / algorithm / value[:2] / value / "data"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A registry for as long as a block lasts; its files lie in ``folder``."""
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
        yield Served(f"127.0.0.1:{port}/me/gpt-frontend", folder / "data")
    finally:
        process.terminate()
        process.wait(timeout=30)
