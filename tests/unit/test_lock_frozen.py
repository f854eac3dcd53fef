"""Frozen builds: what is not locked is refused by name; and what "locked" means for each base."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import base_image, image
from bench.host.image import BuildRequest
from bench.host.lock import frozen, packages, write
from bench.host.lock.packages import Manifest
from bench.host.pins import Pins, load
from tests.conftest import ROOT
from tests.unit.test_image import client_with, fake_image
from tests.unit.test_tasks import invoke, refused

LOCKS = ROOT / "docker" / "locks"
SAID = "installed libc6=2.36-9 amd64\ninstalled g++=4:12.2.0-3 amd64\nconfig-files gone=1 all\n"


@pytest.fixture
def pins() -> Pins:
    return load()


def engine(*local: str, registry: dict[str, str] | None = None, said: str = SAID) -> Any:
    """The dictionary of test_image, and containers in which dpkg-query says ``said``."""
    client = client_with(*local, registry=registry)
    client.info = lambda: {"Architecture": "x86_64"}
    client.removed = []

    def create(name: str, command: list[str], **options: Any) -> Any:
        assert command[0] == "dpkg-query" and options["network_mode"] == "none"
        return SimpleNamespace(
            start=lambda: None,
            wait=lambda timeout: {"StatusCode": 0},
            logs=lambda **_: said.encode(),
            remove=lambda force: client.removed.append(name),
        )

    client.containers = SimpleNamespace(create=create)
    return client


def ours(**labels: str) -> Any:
    made = fake_image("sha256:ours", **labels)
    made.attrs["Architecture"] = "amd64"
    return made


# --- whether a build is frozen ---


@pytest.mark.parametrize(
    ("said", "ci", "result"),
    [
        ((False, False), None, False),
        ((False, False), "true", True),
        ((False, False), "1", True),
        ((False, False), "false", False),
        ((False, False), "", False),
        ((True, False), None, True),
        ((False, True), "true", False),
    ],
)
def test_builds_are_frozen_in_ci_unless_told_otherwise(
    said: tuple[bool, bool], ci: str | None, result: bool
) -> None:
    assert frozen.wanted(*said, {} if ci is None else {"CI": ci}) is result


def test_both_words_at_once_are_refused() -> None:
    assert "exclude each other" in refused(invoke("build-image", "--frozen", "--no-frozen"))


# --- what a request names ---


def test_a_branch_and_a_private_repository_by_name_are_both_named(pins: Pins) -> None:
    request = BuildRequest(tvm_ref="main", private_repo="git@code.example:a/b", private_ref="dev")
    with pytest.raises(UsageFault) as caught:
        frozen.check_request(request, pins, LOCKS)
    assert "--tvm-ref main" in caught.value.message
    assert "asked for by dev" in caught.value.message
    assert "--no-frozen" in str(caught.value.hint)


def test_commits_releases_and_what_the_pins_name_are_locked(pins: Pins) -> None:
    commit = "a" * 40
    for request in (
        BuildRequest(),
        BuildRequest(tvm_ref="v0.23.0"),
        BuildRequest(tvm_ref=commit, private_repo="git@code.example:a/b", private_ref=commit),
        BuildRequest(llvm_url="https://x.example/llvm.tar.xz", llvm_sha256="0" * 64),
    ):
        frozen.check_request(request, pins, LOCKS)


def test_locks_that_do_not_agree_stop_a_frozen_build(pins: Pins, tmp_path: Path) -> None:
    locks = Path(shutil.copytree(LOCKS, tmp_path / "locks"))
    with (locks / "requirements.in").open("a") as file:
        file.write("not-locked-yet\n")
    with pytest.raises(UsageFault, match="not-locked-yet, which no lock has: invoke lock"):
        frozen.check_request(BuildRequest(), pins, locks)


def test_ci_refuses_a_branch_before_it_looks_for_an_engine_and_no_frozen_lets_it_by() -> None:
    words = ("build-image", "--profile", "cpu-source", "--tvm-ref", "main")
    done = invoke(*words, CI="true")
    assert done.returncode == 2
    assert "error: a frozen build takes nothing that is not locked\n--tvm-ref main" in done.stderr
    assert "no Docker engine answers" in refused(invoke(*words, "--no-frozen", CI="true"))
    assert "no Docker engine answers" in refused(invoke(*words, CI=""))


# --- the base ---


def test_a_made_base_is_locked_by_its_id_and_the_user_is_told_of_its_packages(
    pins: Pins, tmp_path: Path
) -> None:
    client = engine(pins.base_image.tag)
    client.local[pins.base_image.tag].labels[base_image.LABEL] = "bookworm"
    for request in (BuildRequest("cpu"), BuildRequest("cpu", pins.base_image.tag)):
        plan = image.plan(request, pins, client, environ={})
        (line,) = frozen.check_plan(plan, client, tmp_path)
        assert "held by its digest" in line and "today's mirror" in line


def test_a_base_by_its_tag_alone_is_refused_with_the_digest_to_name(
    pins: Pins, tmp_path: Path
) -> None:
    client = engine("mine:1")
    plan = image.plan(BuildRequest("cpu", "mine:1"), pins, client, environ={})
    with pytest.raises(UsageFault, match="--base mine:1@sha256:mine:1"):
        frozen.check_plan(plan, client, tmp_path)


def test_a_pinned_base_needs_a_manifest_of_that_very_base_where_frozen_was_typed(
    pins: Pins, tmp_path: Path
) -> None:
    ref = pins.profile("cpu").base
    client = engine(registry={ref: ref.partition("@")[2]})
    strict = BuildRequest("cpu", frozen=True, frozen_packages=True)
    plan = image.plan(strict, pins, client, environ={})
    in_ci = image.plan(BuildRequest("cpu", frozen=True), pins, client, environ={})
    assert "today's mirror" in frozen.check_plan(in_ci, client, tmp_path)[0]
    with pytest.raises(UsageFault, match=r"apt-cpu\.amd64\.txt is not there.*lock --only apt"):
        frozen.check_plan(plan, client, tmp_path)
    path = packages.path_of("cpu", "amd64", tmp_path)
    path.write_text(Manifest("amd64", "debian:older@sha256:1", {"g++": "1"}).text)
    with pytest.raises(UsageFault, match="is of another base"):
        frozen.check_plan(plan, client, tmp_path)
    path.write_text(Manifest("amd64", ref, {"g++": "1"}).text)
    assert frozen.check_plan(plan, client, tmp_path) == []


# --- the packages ---


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = packages.listing(SAID, "amd64", "debian:12@sha256:1")
    assert made.versions == {"libc6": "2.36-9", "g++": "4:12.2.0-3"}
    path = packages.path_of("cpu", "amd64", tmp_path)
    path.write_text(made.text)
    assert packages.read(path, "amd64") == made
    assert packages.read(tmp_path / "none", "amd64") is None


def planned(client: Any, pins: Pins, *, strict: bool) -> image.BuildPlan:
    client.local["debian:12"] = ours()
    request = BuildRequest("cpu", "debian:12", frozen=True, frozen_packages=strict)
    return image.plan(request, pins, client, environ={})


def test_packages_that_are_not_the_locked_ones_fail_a_frozen_build_by_name(
    pins: Pins, tmp_path: Path
) -> None:
    client = engine()
    client.local["made"] = ours()
    plan = planned(client, pins, strict=True)
    path = packages.path_of("cpu", "amd64", tmp_path)
    for versions, said in (
        ({"libc6": "2.36-8", "g++": "4:12.2.0-3"}, "libc6 2.36-8 -> 2.36-9"),
        ({"libc6": "2.36-9"}, r"g\+\+ \(none\) -> 4:12.2.0-3"),
    ):
        path.write_text(Manifest("amd64", "debian:12", versions).text)
        with pytest.raises(JobFailed, match=said) as caught:
            frozen.check_packages(client, "made", plan, tmp_path)
        assert "invoke lock --only apt" in str(caught.value.hint)
    path.write_text(packages.listing(SAID, "amd64", "debian:12").text)
    assert frozen.check_packages(client, "made", plan, tmp_path) == []
    assert len(client.removed) == 3


def test_in_ci_other_packages_are_told_of_and_stop_nobody(pins: Pins, tmp_path: Path) -> None:
    client = engine()
    client.local["made"] = ours()
    path = packages.path_of("cpu", "amd64", tmp_path)
    path.write_text(Manifest("amd64", "debian:12", {"libc6": "2.36-9", "g++": "1"}).text)
    plan = planned(client, pins, strict=False)
    (line,) = frozen.check_packages(client, "made", plan, tmp_path)
    assert "g++ 1 -> 4:12.2.0-3" in line


def test_an_image_on_another_base_has_nothing_to_be_held_to(pins: Pins, tmp_path: Path) -> None:
    client = engine()
    client.local["made"] = ours()
    path = packages.path_of("cpu", "amd64", tmp_path)
    path.write_text(Manifest("amd64", "pinned", {"libc6": "1"}).text)
    assert frozen.check_packages(client, "made", planned(client, pins, strict=True), tmp_path) == []
    assert client.removed == []


def test_lock_takes_the_manifest_of_the_newest_image_on_the_pinned_base(
    pins: Pins, tmp_path: Path
) -> None:
    client = engine()
    base = pins.profile("cpu").base
    label = {"io.gpt-frontend.profile": "cpu", "io.gpt-frontend.base": base}
    older, newer = ours(**label), ours(**label)
    for one, day in ((older, "2026-01-01"), (newer, "2026-01-02")):
        one.tags, one.attrs["Metadata"] = [f"gpt-frontend:{day}"], {"LastTagTime": day}

    def listed(filters: dict[str, list[str]]) -> list[Any]:
        wanted = dict(one.split("=", 1) for one in filters["label"])
        return [one for one in (older, newer) if wanted.items() <= one.labels.items()]

    client.images.list = listed
    part = packages.resolve(pins, tmp_path, client)
    (path,) = part.files
    assert path.name == "apt-cpu.amd64.txt" and base in part.files[path]
    assert {one.place for one in part.unasked} == {
        f"docker/locks/apt-{name}" for name in pins.profiles if name != "cpu"
    }
    write.together(part.files)
    again = packages.resolve(pins, tmp_path, client)
    assert again.same == ["docker/locks/apt-cpu.amd64.txt"] and not again.changes
    moved = engine(said=SAID.replace("2.36-9", "2.36-10"))
    moved.images.list = listed
    (change,) = packages.resolve(pins, tmp_path, moved).changes
    assert change.meaning == "libc6 2.36-9 -> 2.36-10"


def test_without_an_engine_the_packages_are_not_checked(pins: Pins, tmp_path: Path) -> None:
    part = packages.resolve(pins, tmp_path, None, "no Docker engine answers")
    assert len(part.unasked) == len(pins.profiles) and not part.files
