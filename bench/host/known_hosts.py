"""The keys of ssh hosts that a private repository may be on: nothing is trusted unseen."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.errors import UsageFault

PINNED = Path(__file__).resolve().parents[2] / "docker" / "known_hosts"
# git@github.com:me/project.git, as scp writes an address.
SCP = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(?!//)\S+")


def host_of(repository: str) -> str:
    """The host of an ssh address as known_hosts(5) writes it: ``[host]:port`` off port 22.

    Raises:
        UsageFault: it is no ssh address.
    """
    if found := SCP.fullmatch(repository):
        return found[1]
    parts = urlsplit(repository)
    if parts.scheme != "ssh" or not parts.hostname:
        raise UsageFault(
            f"not an ssh address: {repository}",
            hint="git@github.com:me/project.git, or ssh://git@host:2222/project.git",
        )
    return f"[{parts.hostname}]:{parts.port}" if parts.port not in (None, 22) else parts.hostname


def for_repository(repository: str, environ: Mapping[str, str]) -> str:
    """The lines for a repository's host: docker/known_hosts, then the caller's own.

    Raises:
        UsageFault: it is no ssh address, or no key of its host is known.
    """
    host = host_of(repository)
    own = Path(environ.get("HOME") or Path.home(), ".ssh", "known_hosts")
    lines = [*_known(host, PINNED), *_known(host, own)]
    if not lines:
        raise UsageFault(
            f"the host key of {host} is not known",
            hint=f"ssh-keyscan {host.strip('[').replace(']:', ' -p ')}; compare its fingerprint "
            f"with the one that the host publishes, then add the line to {own}",
        )
    return "\n".join([*lines, ""])


@contextmanager
def ssh_environment(repository: str, environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Variables with which git on this machine reaches the host under those keys only.

    Raises:
        UsageFault: as ``for_repository``.
    """
    with tempfile.NamedTemporaryFile("w", prefix="gpt-frontend-") as file:
        file.write(for_repository(repository, environ))
        file.flush()
        options = "-o BatchMode=yes -o StrictHostKeyChecking=yes"
        files = f"-o UserKnownHostsFile={file.name} -o GlobalKnownHostsFile=/dev/null"
        yield {**environ, "GIT_SSH_COMMAND": f"ssh {options} {files}"}


def _known(host: str, file: Path) -> list[str]:
    """The lines of a file that are a host's; ssh-keygen also reads names that are hashed."""
    if not os.access(file, os.R_OK):
        return []
    command = ["ssh-keygen", "-F", host, "-f", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UsageFault("ssh is not installed", hint="apt-get install openssh-client") from error
    return [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
