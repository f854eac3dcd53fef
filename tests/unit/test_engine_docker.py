"""What is decided before a container exists: as whom it runs, how its end is read."""

from __future__ import annotations

import os
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host.engine import docker
from bench.host.engine.docker import Identity, identity
from bench.host.engine.limits import Limits


def caller(monkeypatch: pytest.MonkeyPatch, uid: int, gid: int) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: gid)


SECCOMP = "name=seccomp,profile=builtin"


@pytest.mark.parametrize(
    ("options", "uid", "environ", "want"),
    [
        ([SECCOMP], 1000, {}, Identity("1000:100")),
        ([SECCOMP, "name=rootless"], 1000, {}, Identity("0:0")),
        ([SECCOMP, "name=userns"], 1000, {}, Identity("1000:100", "host")),
        (
            [],
            0,
            {"SUDO_UID": "1000", "SUDO_GID": "1001"},
            Identity("1000:1001", None, (1000, 1001)),
        ),
        ([], 0, {}, Identity("65532:65532", None, (0, 0))),
        ([], 0, {"SUDO_UID": "0"}, Identity("65532:65532", None, (0, 0))),
        (["name=userns"], 0, {}, Identity("65532:65532", "host", (0, 0))),
        ([], 1000, {"SUDO_UID": "7"}, Identity("1000:100")),
    ],
)
def test_a_container_is_never_root_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    uid: int,
    environ: dict[str, str],
    want: Identity,
) -> None:
    caller(monkeypatch, uid, 100)
    assert identity(options, environ) == want


class FakeContainer:
    def __init__(self, code: int, **state: Any) -> None:
        self._code = code
        self.attrs = {"State": state}

    def wait(self, timeout: int) -> dict[str, int]:
        return {"StatusCode": self._code}

    def reload(self) -> None:
        pass


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (FakeContainer(0), "exit code 0"),
        (FakeContainer(1, Error=""), "exit code 1"),
        (FakeContainer(127, Error="no such file"), "exit code 127: no such file"),
        (FakeContainer(137, OOMKilled=True), "out of memory: over 512 MiB (--limits memory=)"),
        (FakeContainer(153), "signal: SIGXFSZ: a file over 8 MiB (--limits file=)"),
        (FakeContainer(137), "signal: SIGKILL"),
        (FakeContainer(139), "signal: SIGSEGV"),
        (FakeContainer(255), "exit code 255"),
    ],
)
def test_how_a_container_ended_is_told(container: FakeContainer, reason: str) -> None:
    limits = Limits(memory=2**29, file=2**23)
    assert docker._ending(container, limits).reason() == reason


CAPABLE = {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True}


def test_an_engine_without_cgroups_is_named_and_not_trusted() -> None:
    assert docker._lacking(CAPABLE, Limits(memory=2**30, pids=64, cpus=1.0)) == []
    rootless = {**CAPABLE, "MemoryLimit": False, "PidsLimit": False}
    assert docker._lacking(rootless, Limits()) == ["memory", "pids"]
    with pytest.raises(UsageFault, match="cannot limit pids"):
        docker._lacking(rootless, Limits(pids=64))
