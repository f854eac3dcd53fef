"""What the checks of one examination share: the host, the needs, and answers asked for once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from bench.errors import BenchError, UsageFault
from bench.host.doctor import web
from bench.host.doctor.finding import Level
from bench.host.doctor.machine import EngineSeen, Host
from bench.host.doctor.needs import Needs
from bench.host.doctor.nvidia import Gpu, gpus
from bench.host.mirrors import Mirrors
from bench.host.mirrors import load as load_mirrors
from bench.host.network import CA_VARIABLES, pip_settings

# A server that is there answers in a second or two. The name look-ups behind a question obey no
# limit of ours, so that the questions run in threads and are left where they take longer.
ANSWER_TIMEOUT_S = 4.0
NETWORK_LIMIT_S = 7.0
PIP_CONFIG = ("python", "-m", "pip", "--disable-pip-version-check", "config", "list")


@dataclass
class Scene:
    """One examination of one host."""

    host: Host
    needs: Needs = field(default_factory=Needs)
    _answers: dict[str, web.Answer] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)
    _until: float = 0.0

    @property
    def for_image(self) -> Level:
        """How grave it is that no image can be built: it blocks whoever asked about a profile."""
        return "note" if self.needs.profile is None else "blocks"

    @cached_property
    def engine_or_fault(self) -> EngineSeen | BenchError:
        """The engine, or why there is none."""
        try:
            return self.host.engine()
        except BenchError as error:
            return error

    @property
    def engine(self) -> EngineSeen | None:
        """The engine, where one answers."""
        found = self.engine_or_fault
        return None if isinstance(found, BenchError) else found

    @property
    def desktop(self) -> bool:
        """Whether the engine is Docker Desktop's, in a virtual machine of its own."""
        system = str(self.engine.info.get("OperatingSystem", "")) if self.engine else ""
        return system == "Docker Desktop"

    @property
    def rootless(self) -> bool:
        """Whether the engine runs without root, in a network namespace of its own."""
        options = (self.engine.info.get("SecurityOptions") or []) if self.engine else []
        return "name=rootless" in ",".join(options).split(",")

    @property
    def snap(self) -> bool:
        """Whether Docker is the confined one from Ubuntu's snap store."""
        root = str(self.engine.info.get("DockerRootDir", "")) if self.engine else ""
        return root.startswith("/var/snap/") or (self.host.which("docker") or "").startswith(
            "/snap/"
        )

    @cached_property
    def wsl(self) -> int:
        """The version of the Windows Subsystem for Linux that this is; 0 on any other machine."""
        kernel = (self.host.read("/proc/version") or "").lower()
        if "microsoft" not in kernel:
            return 0
        return 2 if "microsoft-standard" in kernel else 1

    @cached_property
    def gpus(self) -> list[Gpu] | str | None:
        """The GPUs, what nvidia-smi said where it failed, or None without a driver."""
        return gpus(self.host, bool(self.wsl))

    @cached_property
    def mirrors_or_fault(self) -> Mirrors | UsageFault:
        """The mirrors of the user's configuration file, or what is wrong with it."""
        try:
            return load_mirrors((), self.host.environ)
        except UsageFault as fault:
            return fault

    @property
    def mirrors(self) -> Mirrors:
        """The configured mirrors, as far as they can be read."""
        found = self.mirrors_or_fault
        return Mirrors() if isinstance(found, UsageFault) else found

    @cached_property
    def pip(self) -> Mapping[str, str]:
        """pip's settings, from its files and the environment."""
        done = self.host.run(PIP_CONFIG, timeout=10)
        return pip_settings(done.out) if done.code == 0 else {}

    @cached_property
    def ca_file(self) -> str | None:
        """The CA bundle that a build would get: the first that is named and is there."""
        named = [self.host.environ.get(name, "") for name in CA_VARIABLES]
        return next((path for path in [*named, self.pip.get("cert", "")] if path
                     and self.host.exists(path)), None)  # fmt: skip

    def ask(self, urls: Mapping[str, str]) -> None:
        """Begin to ask servers, each under a name; ``answer`` collects."""
        self._until = time.monotonic() + NETWORK_LIMIT_S
        ca_file = self.ca_file  # once, before the threads
        self.asked = dict(urls)
        for name, url in urls.items():
            thread = threading.Thread(target=self._asker(name, url, ca_file), daemon=True)
            self._threads[name] = thread
            thread.start()

    def answer(self, name: str) -> web.Answer:
        """What the server said that was asked under ``name``; waits for it, within the limit."""
        self._threads[name].join(max(0.0, self._until - time.monotonic()))
        return self._answers.get(name) or web.Answer(None, f"no answer in {NETWORK_LIMIT_S:g} s")

    def _ask_one(self, url: str, ca_file: str | None) -> web.Answer:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https"):
            return self.host.http(url, ANSWER_TIMEOUT_S, ca_file)
        port = parts.port or {"ssh": 22, "git": 9418}[parts.scheme]
        error = self.host.tcp(parts.hostname or "", port, ANSWER_TIMEOUT_S)
        return web.Answer(None, error) if error else web.Answer(200)

    def _asker(self, name: str, url: str, ca_file: str | None) -> Callable[[], None]:
        def ask() -> None:
            try:
                self._answers[name] = self._ask_one(url, ca_file)
            except Exception as error:  # a thread's end is seen by nobody
                self._answers[name] = web.Answer(None, f"{type(error).__name__}: {error}")

        return ask
