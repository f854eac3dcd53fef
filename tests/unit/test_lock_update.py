"""Newer pins: asked of real servers, put to the real solver, written only where they fit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from bench.errors import UsageFault
from bench.host import toolchain
from bench.host.lock import index, newer, proposals, python
from bench.host.lock.proposals import Proposal, Ways
from bench.host.lock.verbs import NotAsked
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins, load
from bench.host.web import CannotAsk
from tests.conftest import ROOT
from tests.unit import git_server, registry_server
from tests.unit.git_server import Server, git
from tests.unit.registry_server import Registry, digest
from tests.unit.test_tasks import invoke, refused

PINS = (ROOT / "docker" / "pins.toml").read_text(encoding="utf-8")


@pytest.fixture
def pins() -> Pins:
    return load()


@pytest.fixture
def server() -> Iterator[Registry]:
    """Everything as it is pinned, and nothing newer."""
    pinned = load()
    with registry_server.serving(Registry()) as state:
        for profile in pinned.profiles.values():
            name, tag = profile.base.partition("@")[0].split(":")
            name = name if "/" in name else f"library/{name}"
            state.images.setdefault(name, {})[tag] = f"{name} {tag}"
        versions = pinned.versions
        for package, version in (
            ("torch", versions.torch),
            ("cmake", versions.cmake),
            ("ninja", versions.ninja),
            ("apache-tvm", versions.tvm),
        ):
            state.publish(package, version)
        yield state


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Server]:
    """The repositories of TVM and LLVM, with tags and nothing else."""
    for path, tags in (
        ("apache/tvm", ("v0.23.0", "v0.26.0", "v0.27.0", "v0.28.0.rc0", "not-a-version")),
        ("llvm/llvm-project", ("llvmorg-10.0.0", "llvmorg-19.1.7", "llvmorg-23.1.0-rc1")),
    ):
        work = tmp_path / "served" / f"{path}.git"
        work.mkdir(parents=True)
        git("init", "-q", "--bare", ".", cwd=work)
        commit = git("commit-tree", "-m", "one", git("write-tree", cwd=work), cwd=work)
        for tag in tags:
            git("tag", "-a", "-m", tag, tag, commit, cwd=work)
    with git_server.serving(tmp_path / "served") as state:
        yield state


@pytest.fixture
def ways(pins: Pins, server: Registry, code: Server, tmp_path: Path) -> Ways:
    mirrors = Mirrors(
        git={"https://github.com/": f"{code.url}/"}, pip=server.index, registry=server.host
    )
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": "/dev/null"}
    return Ways(pins, ROOT / "docker" / "locks", mirrors, environ, lambda _: None)


def told(found: list[Proposal]) -> list[tuple[str, str, str]]:
    words = {True: "refused", False: "fits"}
    return [(one.place, one.new, words[bool(one.refusal)]) for one in found]


# --- the index ---


def test_releases_are_those_with_a_wheel_that_is_neither_withdrawn_nor_a_preview(
    server: Registry,
) -> None:
    server.projects["thing"] = []
    server.publish("thing", "1.0", "1.2", "1.10", "2.0rc1", "3.0.dev1", "1.11+cpu")
    server.publish("thing", "9.0", yanked=True)
    server.projects["thing"] += [("thing-8.0.tar.gz", False), ("nonsense.whl", False)]
    found = index.releases("thing", server.index, {})
    assert found == [Version("1.10"), Version("1.2"), Version("1.0")]


def test_an_index_in_html_is_read_too(server: Registry) -> None:
    links = (
        '<a href="x#sha256=0">thing-1.0-py3-none-any.whl</a>'
        '<a href="y" data-yanked="bad">thing-2.0-py3-none-any.whl</a>'
    )
    server.files["/plain/thing/"] = f"<!DOCTYPE html><html>{links}</html>".encode()
    assert index.releases("thing", f"http://{server.host}/plain", {}) == [Version("1.0")]


def test_the_user_and_password_of_an_index_are_sent_and_never_told(server: Registry) -> None:
    with pytest.raises(CannotAsk) as caught:
        index.releases("absent", f"http://me:hunter2@{server.host}/simple", {})
    assert "404" in str(caught.value) and "hunter2" not in str(caught.value)
    assert server.credentials[-1] == "Basic bWU6aHVudGVyMg=="


# --- what is proposed ---


def test_where_nothing_is_newer_nothing_is_proposed(ways: Ways) -> None:
    assert proposals.propose("python", ways) == []
    assert proposals.propose("cuda", ways) == []
    assert ways.unasked == []


def test_a_newer_torch_is_tried_by_the_solver_and_goes_to_both_files(
    ways: Ways, server: Registry
) -> None:
    server.publish("torch", "2.13.1", "3.0.0")
    (one,) = proposals.propose("python", ways)
    assert (one.place, one.old, one.new, one.refusal) == ("versions.torch", "2.13.0", "3.0.0", "")
    assert one.lists == {"torch==2.13.0": "torch==3.0.0"}
    assert any("newer than the tables" in note for note in one.notes)
    assert "torch-cpu-hashes.txt by hand" in one.notes[-1]


def test_what_a_list_refuses_is_refused_though_the_solver_has_nothing_against_it(
    ways: Ways, server: Registry, tmp_path: Path
) -> None:
    server.publish("ninja", "1.99")
    ways.locks = Path(shutil.copytree(ways.locks, tmp_path / "locks"))
    path = ways.locks / "build.in"
    path.write_text(re.sub("^ninja ", "ninja<1.50 ", path.read_text(), flags=re.MULTILINE))
    (one,) = proposals.propose("python", ways)
    assert one.refusal == "docker/locks/build.in asks for ninja<1.50"


def test_a_cmake_that_the_solver_refuses_is_named_before_the_one_that_fits(
    ways: Ways, server: Registry
) -> None:
    server.publish("cmake", "3.31.12", "4.3.0", "4.3.1")
    found = proposals.propose("python", ways)
    assert told(found) == [
        ("versions.cmake", "4.3.1", "refused"),
        ("versions.cmake", "3.31.12", "fits"),
    ]
    assert "Compatibility with CMake < 3.5 has been removed" in found[0].refusal


def test_a_newer_tvm_is_refused_where_its_llvm_is_too_old_for_it(ways: Ways) -> None:
    found = proposals.propose("tvm", ways)
    llvm10 = [one for one in found if one.place == "profiles.llvm10.tvm"]
    assert llvm10[0].new == "0.27.0" and all(one.refusal for one in llvm10)
    assert "LLVM 10" in llvm10[0].refusal and not any(one.writable for one in llvm10)
    (latest,) = (one for one in found if one.place == "profiles.latest.tvm")
    assert (latest.new, latest.refusal) == ("0.27.0", "")
    assert '[sources."0.27.0"]' in latest.by_hand and not latest.writable


def test_a_base_that_was_published_anew_is_proposed(ways: Ways, pins: Pins) -> None:
    found = proposals.propose("base", ways)
    assert len(found) == len(pins.profiles)
    name = "nvidia/cuda"
    tag = pins.profile("llvm10").base.partition("@")[0].partition(":")[2]
    (one,) = (one for one in found if one.place == "profiles.llvm10.base")
    assert one.new == f"{name}:{tag}@{digest(f'{name} {tag}')}"


def test_a_newer_toolkit_of_the_same_distribution_brings_its_base(
    ways: Ways, server: Registry
) -> None:
    tags = server.images["nvidia/cuda"]
    for tag in (
        "12.6.3-devel-ubuntu22.04",
        "12.6.3-runtime-ubuntu22.04",
        "12.9.2-devel-rockylinux9",
    ):
        tags[tag] = tag
    (one,) = (one for one in proposals.propose("cuda", ways) if "llvm10" in one.place)
    ref = "nvidia/cuda:12.6.3-devel-ubuntu22.04"
    assert one.edits == {
        ("profiles", "llvm10", "cuda"): "12.6.3",
        ("profiles", "llvm10", "base"): f"{ref}@{digest('12.6.3-devel-ubuntu22.04')}",
    }


def test_a_newer_llvm_is_one_that_the_distribution_has_and_tvm_knows(
    ways: Ways, pins: Pins
) -> None:
    found = proposals.propose("llvm", ways)
    (source,) = (one for one in found if one.place == "profiles.cpu-source.llvm" and one.writable)
    assert source.new == "apt:19"
    changed = pins.profiles["cpu-source"].model_copy(update={"llvm": source.new})
    better = pins.model_copy(update={"profiles": {**pins.profiles, "cpu-source": changed}})
    assert toolchain.problems(toolchain.of_profile(better, "cpu-source")) == []
    (archive,) = (one for one in found if one.place == "profiles.llvm10.llvm")
    assert (archive.new, archive.refusal) == ("19.1.7", "") and "checksum" in archive.by_hand


def test_what_does_not_answer_is_named_and_the_rest_proposed(ways: Ways, server: Registry) -> None:
    del server.projects["cmake"]
    server.publish("ninja", "1.99")
    assert told(proposals.propose("python", ways)) == [("versions.ninja", "1.99", "fits")]
    assert [one.place for one in ways.unasked] == ["versions.cmake"]


# --- the verb ---


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(ROOT / "docker" / "locks", root / "docker" / "locks")
    shutil.copy2(ROOT / "docker" / "pins.toml", root / "docker")
    return root


def test_write_edits_the_pins_and_the_list_and_leaves_what_was_refused(
    project: Path, ways: Ways, server: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    server.publish("cmake", "4.3.1")
    server.publish("torch", "2.13.1")
    named = [f"pip={server.index}"]
    newer.update("python", named, writing=False, root=project, environ=ways.environ)
    assert (project / "docker" / "pins.toml").read_text() == PINS
    assert "1 can be written: --write" in capsys.readouterr().out
    newer.update("python", named, writing=True, root=project, environ=ways.environ)
    said = capsys.readouterr().out
    assert "versions.cmake: 3.31.10 -> 4.3.1: refused" in said
    assert "written: versions.torch; now the locks: invoke lock" in said
    expected = PINS.replace('torch = "2.13.0"', 'torch = "2.13.1"')
    assert (project / "docker" / "pins.toml").read_text() == expected
    asked = (project / "docker" / "locks" / "requirements.in").read_text()
    assert re.search(r"^torch==2\.13\.1 +# the parity reference", asked, re.MULTILINE)
    # And `invoke lock` will let the resolver leave the old one.
    moved = python._moved(load(project / "docker" / "pins.toml"), project / "docker" / "locks")
    assert moved == ["--upgrade-package", "torch==2.13.1"]


def test_what_fits_alone_and_not_together_is_not_written(
    project: Path, ways: Ways, server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish("torch", "2.13.1")
    server.publish("ninja", "1.99")
    real = proposals.problems

    def together(changed: Pins, names: object) -> tuple[str, tuple[str, ...]]:
        both = (changed.versions.torch, changed.versions.ninja) == ("2.13.1", "1.99")
        return ("they quarrel", ()) if both else real(changed, list(changed.profiles))

    monkeypatch.setattr(proposals, "problems", together)
    with pytest.raises(UsageFault, match="together they do not: they quarrel"):
        newer.update(
            "python", [f"pip={server.index}"], writing=True, root=project, environ=ways.environ
        )
    assert (project / "docker" / "pins.toml").read_text() == PINS


def test_an_index_that_is_not_there_ends_with_3_and_writes_nothing(
    project: Path, ways: Ways
) -> None:
    with pytest.raises(NotAsked) as caught:
        newer.update(
            "python",
            ["pip=http://127.0.0.1:9/simple"],
            writing=True,
            root=project,
            environ=ways.environ,
        )
    assert caught.value.exit_code == 3
    assert (project / "docker" / "pins.toml").read_text() == PINS


def test_an_unknown_subject_exits_2() -> None:
    assert "nothing to update: kernel" in refused(invoke("update", "kernel"))
