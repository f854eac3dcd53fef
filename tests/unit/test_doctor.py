"""Doctor on hosts that lack one thing each: what it finds, how grave, and the remedy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import limits
from bench.errors import UsageFault
from bench.host import doctor
from bench.host.engine.endpoint import Endpoint

GIB = 2**30


@dataclass
class Host:
    """What the checks see of a machine. As it stands, nothing is missing."""

    programs: set[str] = field(default_factory=lambda: {"docker", "g++", "nvidia-smi"})
    answers: dict[str, tuple[int, str]] = field(
        default_factory=lambda: {"docker": (0, "buildx v0.13"), "nvidia-smi": (0, "H100, 570.1\n")}
    )
    engine: bool = True
    url: str = "unix:///run/docker.sock"
    security: list[str] = field(default_factory=list)
    gpu_refusal: str | None = None
    python: str = "3.11.7"
    missing: set[str] = field(default_factory=set)
    headers: bool = True
    cores: int = 8
    flags: set[str] = field(default_factory=lambda: {"avx2", "fma"})
    memory_gib: float = 16
    store_free_gib: float = 100
    engine_free_gib: float = 100

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in self.programs else None

    def run(self, command: list[str], check: bool = False, **_: Any) -> Any:
        if command[0] not in self.programs:
            raise FileNotFoundError(command[0])
        code, said = self.answers[command[0]]
        if check and code:
            raise subprocess.CalledProcessError(code, command)
        return subprocess.CompletedProcess(command, code, said, "")

    def find_endpoint(self, environ: Mapping[str, str]) -> Endpoint:
        if not self.engine:
            raise UsageFault("no Docker engine answers: tried two", hint="sudo make engine")
        return Endpoint(self.url, "test")


@pytest.fixture
def examine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Host], dict[str, doctor.Finding]]:
    """Put the checks on a host and give their findings by name."""
    engine_root, include = tmp_path / "docker", tmp_path / "include"
    engine_root.mkdir()
    include.mkdir()
    monkeypatch.setenv("GPT_FRONTEND_STORE", str(tmp_path / "absent" / "store"))

    def put_on(host: Host) -> dict[str, doctor.Finding]:
        info = {
            "ServerVersion": "26.1",
            "SecurityOptions": host.security,
            "DockerRootDir": str(engine_root),
        }
        client = SimpleNamespace(info=lambda: info, close=lambda: None)
        if host.headers:
            (include / "Python.h").touch()

        def disk_usage(path: Path) -> Any:
            free = host.engine_free_gib if path == engine_root else host.store_free_gib
            return SimpleNamespace(free=free * GIB)

        fakes: dict[str, object] = {
            "shutil": SimpleNamespace(which=host.which, disk_usage=disk_usage),
            "sysconfig": SimpleNamespace(get_path=lambda _: str(include)),
            "platform": SimpleNamespace(
                python_version=lambda: host.python, machine=lambda: "x86_64"
            ),
            "endpoint.find_endpoint": host.find_endpoint,
            "endpoint.connect": lambda *_: client,
            "docker.gpu_refusal": lambda _: host.gpu_refusal,
            "limits": SimpleNamespace(
                available_cores=lambda: host.cores,
                memory_bytes=lambda: int(host.memory_gib * GIB),
            ),
            "_importable": lambda name: name not in host.missing,
            "_cpu_flags": lambda: host.flags,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(f"bench.host.doctor.{name}", fake)
        monkeypatch.setattr("bench.host.doctor.subprocess.run", host.run)
        found = {finding.check: finding for finding in doctor.examine()}
        assert not (tmp_path / "absent").exists(), "a check made the store's folder"
        return found

    return put_on


Examine = Callable[[Host], dict[str, doctor.Finding]]


def test_a_host_that_lacks_nothing(examine: Examine) -> None:
    found = examine(Host())
    assert len(found) == len(doctor.CHECKS)
    assert {finding.level for finding in found.values()} == {"ok"}, found
    assert not any(finding.remedy for finding in found.values())


@pytest.mark.parametrize(
    ("host", "check", "level", "seen", "remedy"),
    [
        (Host(engine=False), "engine", "note", "no Docker engine answers", "make engine"),
        (Host(security=["name=seccomp", "name=rootless"]), "engine", "ok", "rootless", ""),
        (Host(answers={"docker": (1, ""), "nvidia-smi": (0, "H100, 1")}),
         "buildx", "note", "does not answer", "docker-buildx"),
        (Host(programs={"g++"}), "buildx", "note", "does not answer", "docker-buildx"),
        (Host(programs={"docker"}), "g++", "blocks", "not found", "apt-get install g++"),
        (Host(headers=False), "Python.h", "blocks", "Python.h", "apt-get install python3-dev"),
        (Host(python="3.9.18"), "python", "blocks", "3.9.18", "PYTHON="),
        (Host(python="3.14.0"), "python", "blocks", "3.14.0", "PYTHON="),
        (Host(python="3.10.1"), "python", "ok", "3.10.1", ""),
        (Host(missing={"tvm"}), "python", "blocks", "without tvm", "make setup"),
        (Host(memory_gib=3.5), "memory", "note", "3.5 GiB", "gpt-nano"),
        (Host(store_free_gib=1), "disk", "note", "1 GiB free", "invoke clean"),
        (Host(engine_free_gib=7), "engine's disk", "note", "7 GiB free", "invoke clean --images"),
        (Host(engine_free_gib=7, url="ssh://elsewhere"),
         "engine's disk", "ok", "not on this machine", ""),
        (Host(engine=False), "engine's disk", "ok", "no engine", ""),
        (Host(cores=3, flags={"sse4_2"}), "cpu", "note", "3 cores", ""),
        (Host(programs={"docker", "g++"}), "gpu", "note", "no nvidia-smi", ""),
        (Host(answers={"docker": (0, "v"), "nvidia-smi": (9, "driver/library mismatch")}),
         "gpu", "note", "driver/library mismatch", "NVIDIA driver"),
        (Host(gpu_refusal="could not select device driver"),
         "gpu", "note", "could not select device driver", "NVIDIA Container Toolkit"),
        (Host(engine=False), "gpu", "ok", "no engine to give it", ""),
    ],
)  # fmt: skip
def test_what_is_missing_is_found_with_its_remedy(
    examine: Examine, host: Host, check: str, level: str, seen: str, remedy: str
) -> None:
    found = examine(host)
    finding = found[check]
    assert (finding.level, seen in finding.seen) == (level, True), finding
    assert remedy in finding.remedy and bool(remedy) == bool(finding.remedy), finding
    if level != "ok":
        assert finding.why


def test_only_what_is_missing_is_found(examine: Examine) -> None:
    found = examine(Host(headers=False))
    assert [name for name, finding in found.items() if finding.level != "ok"] == ["Python.h"]


def test_a_check_that_breaks_is_a_finding_and_the_others_still_tell(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_engine() -> doctor.Finding:
        raise KeyError("ServerVersion")

    monkeypatch.setattr(doctor, "CHECKS", (check_engine, doctor.check_compiler))
    found = examine(Host())
    assert found["engine"].level == "note"
    assert "could not be checked: KeyError" in found["engine"].seen
    assert found["g++"].level == "ok"


def test_a_bad_limit_of_the_store_is_a_finding(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_FRONTEND_STORE_GIB", "nan")
    assert "GPT_FRONTEND_STORE_GIB=nan" in examine(Host())["disk"].seen


@pytest.mark.parametrize(
    ("name", "text", "limited"),
    [
        ("memory.max", "1048576\n", True),
        ("memory.max", "max\n", False),
        ("memory/memory.limit_in_bytes", "1048576\n", True),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", False),
    ],
)
def test_memory_is_what_the_cgroup_leaves(
    tmp_path: Path, name: str, text: str, limited: bool
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    whole = limits.memory_bytes(tmp_path / "none")
    assert whole > 2**20
    assert limits.memory_bytes(tmp_path) == (2**20 if limited else whole)


def test_the_limits_of_every_enclosing_cgroup_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "user.slice" / "job.scope"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text("1048576\n")
    (own / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(limits, "_own_group", lambda: "/user.slice/job.scope")
    assert limits.memory_bytes(tmp_path) == 2**20
    assert limits.available_cores(tmp_path) == 1
