"""Where the Docker engine is, found without anything exported by hand, and a client for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageFault

if TYPE_CHECKING:
    from docker import DockerClient

# Left by docker/engine.sh up.
PRIVATE_SOCKET = Path("/run/gpt-frontend/docker.sock")

# A daemon that does not answer a ping in this time is as good as none, and the caller has others
# to try; a build or a container start may then take long between two answers.
PING_TIMEOUT_S = 5
CALL_TIMEOUT_S = 120

HOST_HINT = "correct DOCKER_HOST or unset it; or run without an engine: --engine local"
START_HINT = "sudo make engine, or start Docker; or run without one: --engine local"


@dataclass(frozen=True)
class Endpoint:
    """An engine that answered. ``url`` is a DOCKER_HOST; ``source`` says how it was found."""

    url: str
    source: str

    def cli_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """``environ`` for the docker program, so that it talks to this engine and no other."""
        kept = {key: value for key, value in environ.items() if key != "DOCKER_CONTEXT"}
        return {**kept, "DOCKER_HOST": self.url}


def find_endpoint(
    environ: Mapping[str, str] | None = None, private_socket: Path = PRIVATE_SOCKET
) -> Endpoint:
    """The engine to use: DOCKER_HOST alone if set, else the docker context, else engine.sh's.

    ``environ`` is the process's own where it is not given.

    Raises:
        UsageFault: none of those to be tried answers; says what was tried and why it failed.
    """
    _require_sdk()
    environ = os.environ if environ is None else environ
    if url := environ.get("DOCKER_HOST"):
        candidates = [Endpoint(url, "DOCKER_HOST")]
    else:
        candidates = [
            _context_endpoint(environ),
            Endpoint(f"unix://{private_socket}", "docker/engine.sh"),
        ]
    tried = []
    for candidate in candidates:
        try:
            connect(candidate, environ).close()
            return candidate
        except UsageFault as fault:
            tried.append(fault)
    # An engine that is there but closed to this user is a better lead than one that is not.
    hints = [fault.hint for fault in tried if fault.hint != START_HINT]
    default = HOST_HINT if environ.get("DOCKER_HOST") else START_HINT
    raise UsageFault(
        "no Docker engine answers: " + "; ".join(fault.message for fault in tried),
        hint=hints[0] if hints else default,
    )


def connect(endpoint: Endpoint, environ: Mapping[str, str] | None = None) -> DockerClient:
    """A client that has had an answer; the caller closes it.

    ``environ`` gives DOCKER_TLS_VERIFY and DOCKER_CERT_PATH where DOCKER_HOST is reached by TLS.

    Raises:
        UsageFault: the engine does not answer, or this user may not talk to it.
    """
    _require_sdk()
    from docker import DockerClient
    from docker.errors import DockerException, TLSParameterError
    from docker.utils import kwargs_from_env
    from requests.exceptions import RequestException

    environ = os.environ if environ is None else environ
    where = f"{endpoint.url} ({endpoint.source})"
    try:
        tls = kwargs_from_env(environment=dict(environ)).get("tls") or False
        ssh = endpoint.url.startswith("ssh://")
        # The constructor asks the engine for its version: this is the ping.
        client = DockerClient(
            base_url=endpoint.url, timeout=PING_TIMEOUT_S, tls=tls, use_ssh_client=ssh
        )
    except TLSParameterError as error:
        raise UsageFault(f"{where}: {error}", hint="see DOCKER_CERT_PATH") from error
    except (DockerException, RequestException, OSError, ValueError) as error:
        raise _unreachable(where, endpoint, error) from error
    client.api.timeout = CALL_TIMEOUT_S
    return client


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """Turn what the SDK raises where an engine stops answering into a UsageFault."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise UsageFault(
            f"the Docker engine fails: {said[0]}", hint="run `invoke doctor`; or --engine local"
        ) from error


def _unreachable(where: str, endpoint: Endpoint, error: Exception) -> UsageFault:
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        socket = endpoint.url.removeprefix("unix://")
        remedy = (
            "sudo make engine gives it to you"
            if endpoint.source == "docker/engine.sh"
            else "sudo usermod -aG docker $USER, then log in anew"
        )
        return UsageFault(f"{where}: permission denied", hint=f"you may not use {socket}: {remedy}")
    if "FileNotFoundError" in text or "No such file" in text:
        reason = "no such socket"
    elif "Connection refused" in text or "ConnectionRefusedError" in text:
        reason = "nothing listens there"
    elif "timed out" in text.lower():
        reason = f"no answer within {PING_TIMEOUT_S} s"
    else:
        reason = text.splitlines()[0] if text else type(error).__name__
    return UsageFault(f"{where}: {reason}", hint=START_HINT)


def _context_endpoint(environ: Mapping[str, str]) -> Endpoint:
    """The engine of the current docker context; with none chosen, the default socket."""
    from docker.constants import DEFAULT_UNIX_SOCKET
    from docker.context import Context, ContextAPI

    name = environ.get("DOCKER_CONTEXT")
    # None for an unknown name, which the stubs do not say.
    load: Callable[[str | None], Context | None] = ContextAPI.get_context
    try:
        context = load(name)
    except Exception as error:  # the SDK raises bare Exception for a damaged context file
        raise UsageFault(
            f"cannot read the docker context {name or ''}: {error}",
            hint="docker context ls; docker context use default",
        ) from error
    if context is None:
        raise UsageFault(
            f"there is no docker context {name or ''}",
            hint="docker context ls; docker context use default",
        )
    if context.tls_cfg:
        raise UsageFault(
            f"the docker context {context.name} is reached by TLS, which is not read from there",
            hint="set DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH instead",
        )
    # The SDK spells the default socket http+unix://, which the docker program does not know.
    host = context.Host or DEFAULT_UNIX_SOCKET
    return Endpoint(host.replace("http+unix://", "unix://"), f"docker context {context.name}")


def _require_sdk() -> None:
    """Raise UsageFault where the SDK is missing: the folder docker/ then passes for it."""
    try:
        from docker import DockerClient  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise UsageFault("the docker SDK for Python is not installed", hint="make setup") from error
