"""The locks are complete, hashed, tied to no host, and agree with each other and with the pins."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


LOCKS = ROOT / "docker" / "locks"
LOCK_NAMES = ("requirements.txt", "tvm.txt", "torch.txt", "torch-cuda.txt")
# For images that compile TVM; each is resolved on its own.
BUILD_LOCKS = ("build.txt", "cuda.txt", "tvm-0.23.0.txt", "tvm-0.26.0.txt")
LISTS = sorted(path.name for path in LOCKS.glob("*.in"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CUDA_NAME = re.compile(r"triton$|nvidia-|cuda-")

Entry = tuple[Requirement, list[str]]


def entries(name: str) -> list[Entry]:
    """Each requirement of a lock with its hashes."""
    text = (LOCKS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=sha256:", line.rstrip())
            found.append((Requirement(requirement), hashes))
    return found


def marker_environment(python: str, machine: str = "x86_64") -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "extra": "",
    }


def versions(python: str, machine: str = "x86_64") -> dict[str, str]:
    """Name to version, over all locks, as one Python on one machine gets them."""
    found: dict[str, str] = {}
    for name in LOCK_NAMES:
        for requirement, _ in entries(name):
            if applies(requirement, python, machine):
                assert requirement.name not in found, f"{requirement.name} twice for {python}"
                (specifier,) = requirement.specifier
                found[requirement.name] = specifier.version
    return found


def applies(requirement: Requirement, python: str, machine: str = "x86_64") -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate(marker_environment(python, machine))


def asked_for() -> Iterator[Requirement]:
    for line in (LOCKS / "requirements.in").read_text(encoding="utf-8").splitlines():
        requirement = line.split("#")[0].strip()
        if requirement:
            yield Requirement(requirement)


@pytest.mark.parametrize("name", [*LOCK_NAMES, *BUILD_LOCKS])
def test_every_entry_is_one_version_with_hashes(name: str) -> None:
    assert entries(name)
    for requirement, hashes in entries(name):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]
        assert requirement.url is None
        assert hashes, requirement.name
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes)


@pytest.mark.parametrize("name", [*LOCK_NAMES, *BUILD_LOCKS, "torch-cpu-hashes.txt", *LISTS])
def test_no_lock_names_a_host_or_an_option(name: str) -> None:
    text = (LOCKS / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"\b[a-z0-9-]+\.(com|org|io|net|dev|internal|local)\b", text)
    assert not re.search(r"^\s*-(?!-hash=sha256:)", text, re.MULTILINE)


def test_cuda_packages_are_in_their_own_lock() -> None:
    assert [requirement.name for requirement, _ in entries("torch.txt")] == ["torch"]
    assert all(CUDA_NAME.match(requirement.name) for requirement, _ in entries("torch-cuda.txt"))
    names = {requirement.name for requirement, _ in entries("requirements.txt")}
    assert not {name for name in names if CUDA_NAME.match(name)}
    assert "torch" not in names


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", PYTHONS)
def test_locks_hold_what_is_asked_for(python: str, machine: str) -> None:
    locked = versions(python, machine)
    wanted = [requirement for requirement in asked_for() if applies(requirement, python, machine)]
    assert len(wanted) > 10
    for requirement in wanted:
        assert requirement.specifier.contains(locked[requirement.name]), requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_nothing_that_torch_and_tvm_need_is_missing(python: str) -> None:
    """Installing with --no-deps asks no package what it needs, so this does."""
    locked = versions(python)
    for package in ("torch", "apache-tvm", "apache-tvm-ffi"):
        needs = [Requirement(text) for text in metadata.requires(package) or []]
        needs = [requirement for requirement in needs if applies(requirement, python)]
        assert needs, f"{package} is said to need nothing"
        for requirement in needs:
            name = canonicalize_name(requirement.name)
            assert name in locked, f"{package} needs {name}"
            assert requirement.specifier.contains(locked[name]), f"{package} needs {requirement}"


def test_nothing_that_an_installed_package_needs_is_missing() -> None:
    """As `pip check` would say, but against the lock, whatever else is installed here."""
    python = f"3.{sys.version_info[1]}"
    locked = versions(python)
    seen = 0
    for distribution in metadata.distributions():
        if canonicalize_name(distribution.name) not in locked:
            continue
        seen += 1
        for requirement in map(Requirement, distribution.requires or []):
            if applies(requirement, python):
                version = locked.get(canonicalize_name(requirement.name))
                assert version is not None, f"{distribution.name} needs {requirement}"
                assert requirement.specifier.contains(version), (distribution.name, requirement)
    assert seen > 20


def test_pins_and_locks_agree() -> None:
    with (ROOT / "docker" / "pins.toml").open("rb") as file:
        pinned = tomllib.load(file)["versions"]
    locked = versions("3.11")
    assert pinned["torch"] == locked["torch"]
    assert pinned["tvm"] == locked["apache-tvm"]
    assert pinned["tvm_ffi"] == locked["apache-tvm-ffi"]


def one_version(lock: str, package: str) -> str:
    """The version that a lock has for Python 3.11 on x86_64."""
    found = [r for r, _ in entries(lock) if r.name == package and applies(r, "3.11")]
    (specifier,) = found[0].specifier
    return specifier.version


def test_pins_and_build_locks_agree() -> None:
    with (ROOT / "docker" / "pins.toml").open("rb") as file:
        pins = tomllib.load(file)
    for tool in ("cmake", "ninja"):
        assert one_version("build.txt", tool) == pins["versions"][tool]
    assert one_version("cuda.txt", "nvidia-cuda-nvcc") == pins["versions"]["nvcc_wheel"]
    assert one_version("cuda.txt", "cuda-toolkit").startswith(pins["versions"]["torch_cuda"] + ".")
    for version, source in pins["sources"].items():
        lock = f"tvm-{version}.txt"
        assert lock in BUILD_LOCKS
        assert one_version(lock, "apache-tvm-ffi") == source["tvm_ffi"]


def test_an_image_gets_one_version_of_each_package() -> None:
    """The locks of a source build lie on top of the environment's own."""
    for python in PYTHONS:
        locked = versions(python)
        for lock in BUILD_LOCKS:
            for requirement, _ in entries(lock):
                if requirement.name in locked and requirement.name != "apache-tvm-ffi":
                    version = locked[requirement.name]
                    if applies(requirement, python):
                        assert requirement.specifier.contains(version), (lock, python, requirement)


def test_cpu_hashes_are_in_the_torch_lock() -> None:
    lines = (LOCKS / "torch-cpu-hashes.txt").read_text(encoding="utf-8").splitlines()
    table = [line.split() for line in lines if not line.startswith("#")]
    wheels = [(tag, machine) for tag, machine, _ in table]
    assert len(set(wheels)) == len(wheels)
    assert {("cp311", "x86_64"), ("cp312", "x86_64"), ("cp313", "x86_64")} <= set(wheels)
    ((_, locked),) = entries("torch.txt")
    assert {digest for _, _, digest in table} <= set(locked)
    assert len(locked) > len(table), "the wheels on PyPI are locked too"


def split(directory: Path, resolved: str) -> "subprocess.CompletedProcess[str]":
    """Run a copy of split.py, which writes beside itself, on the text of a resolution."""
    for name in ("split.py", "torch-cpu-hashes.txt"):
        if not (directory / name).exists():
            shutil.copy(LOCKS / name, directory)
    (directory / "resolved.txt").write_text(resolved, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(directory / "split.py"), str(directory / "resolved.txt")],
        capture_output=True,
        text=True,
    )


def test_locks_are_as_split_writes_them(tmp_path: Path) -> None:
    """A hash that was added or taken out by hand would not survive `make lock`."""
    texts = {name: (LOCKS / name).read_text(encoding="utf-8") for name in LOCK_NAMES}
    resolved = "".join(re.sub("^#.*\n", "", text, flags=re.MULTILINE) for text in texts.values())
    assert split(tmp_path, resolved).returncode == 0
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in LOCK_NAMES} == texts


def test_split_adds_the_cpu_hashes(tmp_path: Path) -> None:
    known, added = "b" * 64, "a" * 64
    (tmp_path / "torch-cpu-hashes.txt").write_text(f"# why\ncp311 x86_64 {added}\n")
    hashes = f" \\\n    --hash=sha256:{known}\n"
    resolved = f"apache-tvm==1.0{hashes}numpy==2.0{hashes}    # via torch\n"
    resolved += f"torch==9.9{hashes}triton==3.0{hashes}"
    assert split(tmp_path, resolved).returncode == 0
    lines = (tmp_path / "torch.txt").read_text().splitlines()
    assert lines[2:] == [
        "torch==9.9 \\",
        f"    --hash=sha256:{added} \\",
        f"    --hash=sha256:{known}",
    ]
    assert "numpy==2.0" in (tmp_path / "requirements.txt").read_text()
    assert "apache-tvm==1.0" in (tmp_path / "tvm.txt").read_text()
    assert "triton==3.0" in (tmp_path / "torch-cuda.txt").read_text()


@pytest.mark.parametrize("damage", ["cp311 x86_64 abc", "cp311 riscv64 " + "a" * 64, "words"])
def test_split_refuses_a_damaged_hash_list(tmp_path: Path, damage: str) -> None:
    (tmp_path / "torch-cpu-hashes.txt").write_text(damage + "\n")
    done = split(tmp_path, "torch==9.9 \\\n    --hash=sha256:" + "b" * 64 + "\n")
    assert done.returncode == 1
    assert f"error: torch-cpu-hashes.txt: not a tag, machine and hash: {damage!r}" in done.stderr
    assert not (tmp_path / "torch.txt").exists()


def test_update_without_an_environment_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(LOCKS / "update.sh")],
        env={"PATH": "/usr/bin:/bin", "UV": str(tmp_path / "uv"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'uv'} is not there",
        "hint: make setup",
    ]
