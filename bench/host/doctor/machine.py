"""All that the checks see of a machine, behind one small protocol, and the real machine.

The checks ask nothing but a ``Host``, so that recorded machines can stand in for it
(tests/unit/hosts). No method raises for what a machine lacks: it says so.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from bench import limits
from bench.host.doctor import web
from bench.host.doctor.web import Answer

MISSING, TIMED_OUT = 127, 124  # exit codes as a shell and `timeout` give them


@dataclass(frozen=True)
class Ran:
    """A command that came to its end, or could not be run at all (``MISSING``)."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Both streams in one line."""
        return " ".join(f"{self.out} {self.err}".split())


@dataclass(frozen=True)
class GpuAnswer:
    """What a container with a GPU request came to. ``refusal`` is None where it got one.

    ``said`` is what the container's own CUDA driver told of the GPUs; empty where no image of
    ours was there to ask with, and only the engine's consent is known.
    """

    refusal: str | None
    said: str = ""


class EngineSeen(Protocol):
    """A Docker engine that answered. ``info`` and ``version`` are its API's, as it gave them."""

    url: str
    source: str
    info: Mapping[str, Any]

    def cli_environ(self) -> Mapping[str, str]:
        """The environment in which the docker program talks to this engine."""

    def gateway(self) -> str | None:
        """The address under which a container on the bridge network sees the host."""

    def try_gpu(self) -> GpuAnswer:
        """Start a container with a GPU request, and remove it."""


class Host(Protocol):
    """A machine, as far as the checks look at it. Times are in seconds, sizes in bytes."""

    environ: Mapping[str, str]

    def run(
        self, argv: Sequence[str], timeout: float = 10, environ: Mapping[str, str] | None = None
    ) -> Ran:
        """Run a command to its end; ``python`` is the interpreter that runs this project."""

    def read(self, path: str) -> str | None:
        """A file's text; None where it is not there or may not be read."""

    def exists(self, path: str) -> bool: ...

    def which(self, name: str) -> str | None: ...

    def free_bytes(self, path: str) -> int | None:
        """Room on the file system of ``path`` or of its nearest parent; None for no such place."""

    def memory_bytes(self) -> int: ...

    def cores(self) -> int: ...

    def architecture(self) -> str: ...

    def python_version(self) -> str: ...

    def python_prefix(self) -> str: ...

    def include_dir(self) -> str: ...

    def importable(self, module: str) -> bool: ...

    def now(self) -> datetime: ...

    def home(self) -> str: ...

    def tcp(self, address: str, port: int, timeout: float) -> str | None:
        """Open a connection and close it; None where that went well, else what went wrong."""

    def http(self, url: str, timeout: float, ca_file: str | None) -> Answer:
        """Ask for a page's head, through the environment's proxy."""

    def engine(self) -> EngineSeen:
        """The Docker engine.

        Raises:
            UsageFault: none answers; with a hint.
        """


class RealHost:
    """The machine that this process runs on."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.environ: Mapping[str, str] = dict(os.environ if environ is None else environ)

    def run(
        self, argv: Sequence[str], timeout: float = 10, environ: Mapping[str, str] | None = None
    ) -> Ran:
        command = [sys.executable if argv[0] == "python" else argv[0], *argv[1:]]
        env = {**(self.environ if environ is None else environ), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return Ran(TIMED_OUT, "", f"no answer within {timeout:g} s")
        except OSError as error:
            return Ran(MISSING, "", f"{argv[0]}: {error.strerror}")
        return Ran(done.returncode, done.stdout, done.stderr)

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        try:
            return Path(path).exists()
        except OSError:  # a parent that may not be entered
            return False

    def which(self, name: str) -> str | None:
        return shutil.which(name, path=self.environ.get("PATH"))

    def free_bytes(self, path: str) -> int | None:
        for place in (Path(path), *Path(path).parents):
            try:
                return shutil.disk_usage(place).free
            except OSError:
                continue
        return None

    def memory_bytes(self) -> int:
        return limits.memory_bytes()

    def cores(self) -> int:
        return limits.available_cores()

    def architecture(self) -> str:
        return platform.machine()

    def python_version(self) -> str:
        return platform.python_version()

    def python_prefix(self) -> str:
        return sys.prefix

    def include_dir(self) -> str:
        return sysconfig.get_path("include")

    def importable(self, module: str) -> bool:
        try:
            return importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            return False

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def home(self) -> str:
        return str(Path.home())

    def tcp(self, address: str, port: int, timeout: float) -> str | None:
        told: list[str | None] = []

        def connect() -> None:
            try:
                socket.create_connection((address, port), timeout).close()
            except OSError as error:
                told.append(str(error))
            else:
                told.append(None)

        # In a thread, which is left where it takes longer: looking a name up obeys no timeout.
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(timeout + 1)
        return told[0] if told else f"no answer in {timeout:g} s"

    def http(self, url: str, timeout: float, ca_file: str | None) -> Answer:
        return web.head(url, timeout, ca_file, self.environ)

    def engine(self) -> EngineSeen:
        from bench.host.doctor.container import RealEngine

        return RealEngine.found(self.environ)
