"""The base image carries nothing of the machine that made it, and says what it needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import base_image
from bench.host.engine.endpoint import Endpoint

ENDPOINT = Endpoint("unix:///nowhere.sock", "test")


def test_tree_keeps_nothing_of_the_machine(tmp_path: Path) -> None:
    files = {
        "etc/hostname": "builder",
        "etc/resolv.conf": "nameserver 192.0.2.1",
        "etc/machine-id": "abc",
        "etc/apt/sources.list": "deb http://mirror.internal/debian bookworm main",
        "var/log/bootstrap.log": "http://mirror.internal",
        "var/log/apt/term.log": "",
        "var/lib/apt/lists/mirror.internal_InRelease": "",
        "var/cache/apt/archives/x.deb": "http://mirror.internal",
        "usr/bin/true": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    base_image.clean(
        tmp_path, "bookworm", "http://mirror.internal/debian", "http://public.example/debian"
    )
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"etc/apt/sources.list", "etc/machine-id", "usr/bin/true"}
    assert (tmp_path / "etc/machine-id").read_text() == ""
    assert (tmp_path / "etc/apt/sources.list").read_text().splitlines() == [
        "deb http://public.example/debian bookworm main",
        "deb http://public.example/debian bookworm-updates main",
        "deb http://public.example/debian-security bookworm-security main",
    ]


def test_a_mirror_left_in_the_tree_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/odd.conf").write_text("see http://mirror.internal/debian")
    with pytest.raises(JobFailed, match=r"etc/odd\.conf"):
        base_image.clean(
            tmp_path, "bookworm", "http://mirror.internal/debian", "http://public.example"
        )


def test_base_image_needs_root_and_debootstrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, str | None] = {"docker": "docker", "debootstrap": None}
    monkeypatch.setattr(shutil, "which", lambda name, **_: found[name])
    with pytest.raises(UsageFault, match="debootstrap is not installed") as caught:
        base_image.make(ENDPOINT, None, print)
    assert "apt-get install" in str(caught.value.hint)
    found["debootstrap"] = str(tmp_path / "debootstrap")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageFault, match="root") as caught:
        base_image.make(ENDPOINT, None, print)
    assert "sudo" in str(caught.value.hint)


def test_public_mirror_is_debootstraps_own_default(tmp_path: Path) -> None:
    script = tmp_path / "debootstrap"
    script.write_text('#!/bin/sh\nDEF_MIRROR="http://public.example/debian/"\n')
    assert base_image.public_mirror(script) == "http://public.example/debian"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(UsageFault):
        base_image.public_mirror(script)


def test_mounts_are_listed_deepest_first(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 / /t/root/proc rw - proc p rw\n"
        "3 2 8:1 / /t/root/proc/sys rw - proc p rw\n4 1 8:1 / /to rw - tmpfs t rw\n"
    )
    assert base_image.mounts_under(Path("/t"), table) == ["/t/root/proc/sys", "/t/root/proc"]
