"""Doctor on recorded machines: what it finds there, how grave, and the remedy; nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.host import doctor, pins
from bench.host.doctor import driver, gpu, needs, network, nvidia, registry
from bench.host.doctor.needs import CudaNeed, Needs
from tests.unit.hosts.recorded import NAMES, RecordedHost, recording

# The profiles as the recordings know them, whatever docker/pins.toml says one day.
NEEDS = Needs(
    cuda=(
        CudaNeed("llvm10", "12.4.1", ("80", "86", "90")),
        CudaNeed("latest", "13.3.1", ("80", "86", "90", "120")),
    )
)

Examine = Callable[..., list[doctor.Finding]]


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Put the checks on a recorded machine."""

    def put_on(name: str, wanted: Needs = NEEDS, **changes: str) -> list[doctor.Finding]:
        monkeypatch.setattr(needs, "of", lambda *_: wanted)
        config = tmp_path / "config.toml"
        config.write_text(recording(name).get("config", ""))
        store = tmp_path / "absent" / "store"
        own = {"GPT_FRONTEND_CONFIG": str(config), "GPT_FRONTEND_STORE": str(store)}
        findings = doctor.examine(host=RecordedHost.of(name, {**own, **changes}))
        assert not store.parent.exists(), "a check made the store's folder"
        return findings

    return put_on


def named(findings: list[doctor.Finding], check: str) -> doctor.Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, f"{check}: {found or [finding.check for finding in findings]}"
    return found[0]


def test_there_are_enough_recordings_each_with_its_expectations_and_its_own_story() -> None:
    assert len(NAMES) >= 25
    stories = [recording(name)["summary"] for name in NAMES]
    assert len(set(stories)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_machine(examine: Examine, name: str) -> None:
    findings = examine(name)
    expected: list[dict[str, Any]] = recording(name)["expect"]
    for one in expected:
        finding = named(findings, one["check"])
        assert finding.level == one["level"], finding
        assert one.get("seen", "") in finding.seen, finding
        assert one.get("remedy", "") in finding.remedy, finding
        assert one.get("why", "") in finding.why, finding
        # A finding that something lacks is expected with its words, not by its name alone.
        assert one.get("seen"), one
    lacks = {finding.check for finding in findings if finding.level != "ok"}
    assert lacks == {one["check"] for one in expected if one["level"] != "ok"}


@pytest.mark.parametrize("name", NAMES)
def test_what_lacks_says_why_and_how_to_mend_it_and_no_finding_shows_a_password(
    examine: Examine, name: str
) -> None:
    for finding in examine(name):
        if finding.level == "ok":
            assert not finding.remedy and not finding.why, finding
        else:
            assert finding.seen and finding.why and finding.remedy, finding
        words = " ".join([finding.seen, finding.why, finding.remedy])
        assert "secret-word" not in words
        assert "not recorded" not in words and "could not be checked" not in words, finding


def test_every_check_has_a_machine_where_it_finds_something(examine: Examine) -> None:
    lacking = {f.check for name in NAMES for f in examine(name) if f.level != "ok"}
    present = {f.check for name in NAMES for f in examine(name)}
    assert present - lacking == {"mirror pip", "mirror registry"}


def test_every_remedy_for_a_gpu_is_given_on_some_machine(examine: Examine) -> None:
    given = " ".join(f.remedy for name in NAMES for f in examine(name) if f.check == "gpu")
    for pattern, remedy in (*gpu.REFUSALS, *gpu.SMI_REMEDIES):
        assert remedy in given, pattern


def test_the_json_has_five_strings_a_finding(examine: Examine) -> None:
    findings = examine("bare-debian")
    data = doctor.as_data(findings)
    assert [list(one) for one in data] == [["check", "level", "seen", "why", "remedy"]] * len(data)
    assert all(isinstance(value, str) for one in data for value in one.values())
    assert {one["level"] for one in data} == {"ok", "note", "blocks"}
    assert doctor.table(findings).row_count == len(findings)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("bare-debian", "engine"),
        ("no-buildx", "buildx"),
        ("engine-20.10", "BuildKit"),
        ("data-root-full", "engine's disk"),
        ("mirror-config-broken", "mirrors"),
    ],
)
def test_what_stops_a_build_blocks_whoever_asks_about_a_profile(
    examine: Examine, name: str, check: str
) -> None:
    asked = dataclasses.replace(NEEDS, profile="cpu")
    assert named(examine(name), check).level == "note"
    finding = named(examine(name, asked), check)
    assert finding.level == "blocks" and finding.remedy


def test_a_proxy_that_no_build_can_reach_blocks_a_profile(examine: Examine) -> None:
    asked = dataclasses.replace(NEEDS, profile="cpu")
    # An engine of this machine lends a build the host's network; a rootless one has another.
    assert named(examine("proxy-loopback", asked), "proxy").level == "note"
    assert named(examine("proxy-loopback-rootless", asked), "proxy").level == "blocks"


def test_a_profile_of_wheels_asks_no_git_server(examine: Examine) -> None:
    wheels = dataclasses.replace(NEEDS, profile="cpu", git_url=None)
    asked = {finding.check for finding in examine("healthy", wheels)}
    assert "git" not in asked and {"pip", "registry"} <= asked


def test_the_disk_and_the_memory_are_measured_by_what_the_profile_needs(examine: Examine) -> None:
    big = Needs(profile="llvm10", from_source=True, disk_gib=201, memory_gib=32)
    findings = examine("healthy", big)
    disk = named(findings, "engine's disk")
    assert disk.level == "note" and "profile llvm10 and its build take about 201" in disk.why
    huge = dataclasses.replace(big, disk_gib=401)
    assert named(examine("healthy", huge), "engine's disk").level == "blocks"
    memory = named(findings, "engine's memory")
    assert memory.level == "note" and "--jobs 1" in memory.remedy
    fits = dataclasses.replace(big, disk_gib=200, memory_gib=31)
    assert named(examine("healthy", fits), "engine's disk").level == "ok"
    assert named(examine("healthy", fits), "engine's memory").level == "ok"


def test_a_source_profile_needs_more_than_a_wheel_profile() -> None:
    pinned = pins.load()
    wheel, source = needs.of("cpu", pinned), needs.of("cpu-source", pinned)
    assert not wheel.from_source and source.from_source
    assert source.disk_gib > wheel.disk_gib and source.memory_gib > wheel.memory_gib
    assert wheel.git_url is None and source.git_url == "https://github.com"
    for name, profile in pinned.profiles.items():
        need = needs.of(name, pinned)
        assert need.disk_gib >= 2 * profile.budget_gib
        assert [one.profile for one in need.cuda] == [name] * (profile.device == "cuda")
        assert all(one.toolkit for one in need.cuda)
    every = {one.profile for one in needs.of(None, pinned).cuda}
    assert every == {name for name, one in pinned.profiles.items() if one.device == "cuda"}


@pytest.mark.parametrize(
    ("reference", "registry_host"),
    [
        ("debian:bookworm", "registry-1.docker.io"),
        ("nvidia/cuda:12.4.1-devel-ubuntu22.04", "registry-1.docker.io"),
        ("docker.io/library/debian:12", "registry-1.docker.io"),
        ("registry.example/team/base:1", "registry.example"),
        ("localhost:5000/base:1", "localhost:5000"),
    ],
)
def test_the_registry_of_a_base(reference: str, registry_host: str) -> None:
    assert needs.registry_of(reference) == registry_host


def test_a_bundle_of_public_authorities_may_hold_some_that_have_run_out(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_PUBLIC", 2)
    finding = named(examine("ca-partly-expired"), "CA bundle")
    assert finding.level == "ok"
    assert "2 CA certificates, 1 of them expired" in finding.seen
    assert named(examine("ca-expired"), "CA bundle").level == "note"


def test_a_check_that_breaks_is_a_finding_and_the_others_still_tell(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_something(scene: object) -> doctor.Finding:
        raise KeyError("ServerVersion")

    monkeypatch.setattr(registry, "CHECKS", (check_something, *doctor.CHECKS))
    findings = examine("healthy")
    broken = named(findings, "something")
    assert broken.level == "note" and "could not be checked: KeyError" in broken.seen
    assert broken.why and broken.remedy
    assert named(findings, "g++").level == "ok"


def test_a_bad_limit_of_the_store_is_a_finding(examine: Examine) -> None:
    finding = named(examine("healthy", GPT_FRONTEND_STORE_GIB="nan"), "disk")
    assert finding.level == "note" and "GPT_FRONTEND_STORE_GIB=nan" in finding.seen
    assert "GPT_FRONTEND_STORE_GIB=20" in finding.remedy


def test_the_cuda_that_pytorch_brings_wants_a_driver_too() -> None:
    gpu = nvidia.Gpu("NVIDIA GeForce RTX 4090", "550.54.14", "8.9")
    need = CudaNeed("llvm10", "12.4.1", ("80", "86", "90"), torch="2.13.0", torch_cuda="13.0")
    finding = driver._against(gpu, need)
    assert finding.level == "note"
    assert "torch's CUDA 13.0" in finding.seen and "580" in finding.remedy
