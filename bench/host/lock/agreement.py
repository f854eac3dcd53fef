"""What must agree without asking anybody: the pins, the lists (*.in) and the locks (*.txt)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bench.host.pins import Pins

# requirements.in is resolved once and split in four: see docker/locks/split.py.
SPLIT = ("requirements.txt", "tvm.txt", "torch.txt", "torch-cuda.txt")
HASH = re.compile(r"\s--hash=sha256:[0-9a-f]{64}\b")

Entries = dict[str, list[Requirement]]


def drift(pins: Pins, locks: Path) -> list[str]:
    """Each disagreement in a sentence that names the file; [] where there is none."""
    found: list[str] = []
    read: dict[str, Entries] = {}
    lists = sorted(locks.glob("*.in"))
    names = [*SPLIT, *(one.with_suffix(".txt").name for one in lists if one.stem != "requirements")]
    for name in names:
        try:
            read[name] = entries(locks / name, found)
        except OSError as error:
            found.append(f"docker/locks/{name}: {error.strerror}")
            read[name] = {}
    for one in lists:
        files = SPLIT if one.stem == "requirements" else (one.with_suffix(".txt").name,)
        found += _asked_for(one, files, read)
    found += _pinned(pins, read)
    for version, source in pins.sources.items():
        for path in source.read_by_parent:
            if not any(path.startswith(f"{parent}/") for parent in source.gitlinks):
                found.append(
                    f'docker/pins.toml: sources."{version}": nothing fixes {path}, which is said '
                    "to be read by its parent"
                )
    return found


def entries(path: Path, found: list[str]) -> Entries:
    """A lock's requirements by name; what is not one version with hashes is added to ``found``."""
    read: Entries = {}
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            requirement = Requirement(HASH.sub("", line).strip())
        except InvalidRequirement:
            found.append(f"docker/locks/{path.name}: not a locked package: {line.split(' ')[0]}")
            continue
        operators = [one.operator for one in requirement.specifier]
        if operators != ["=="] or requirement.url or not HASH.search(line):
            found.append(
                f"docker/locks/{path.name}: {requirement.name} is not one version with its hashes"
            )
        read.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return read


def wanted(path: Path) -> Iterator[Requirement]:
    """The packages that a list asks for."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if text := line.split("#")[0].strip():
            yield Requirement(text)


def _asked_for(path: Path, files: tuple[str, ...], read: dict[str, Entries]) -> Iterator[str]:
    for requirement in wanted(path):
        name = canonicalize_name(requirement.name)
        locked = [one for file in files for one in read[file].get(name, [])]
        if not locked:
            yield f"docker/locks/{path.name} asks for {requirement.name}, which no lock has"
        for one in locked:
            version = next((each.version for each in one.specifier), "")
            if not requirement.specifier.contains(version, prereleases=True):
                yield (
                    f"docker/locks/{path.name} asks for {requirement.name}{requirement.specifier}, "
                    f"locked is {version}"
                )


def pinned(pins: Pins) -> list[tuple[str, str, str, str]]:
    """What the pins say of Python packages: (place, version, lock file, package)."""
    versions = pins.versions
    same = [
        ("versions.torch", versions.torch, "torch.txt", "torch"),
        ("versions.tvm", versions.tvm, "tvm.txt", "apache-tvm"),
        ("versions.tvm_ffi", versions.tvm_ffi, "tvm.txt", "apache-tvm-ffi"),
        ("versions.cmake", versions.cmake, "build.txt", "cmake"),
        ("versions.ninja", versions.ninja, "build.txt", "ninja"),
        ("versions.nvcc_wheel", versions.nvcc_wheel, "cuda.txt", "nvidia-cuda-nvcc"),
    ]
    for version, source in pins.sources.items():
        place = f'sources."{version}".tvm_ffi'
        same.append((place, source.tvm_ffi, f"tvm-{version}.txt", "apache-tvm-ffi"))
    return same


def _pinned(pins: Pins, read: dict[str, Entries]) -> Iterator[str]:
    for place, pin, file, package in pinned(pins):
        locked = _versions(read.get(file, {}).get(package, []))
        if locked != {pin}:
            told = ", ".join(sorted(locked)) or "nothing"
            yield f"docker/pins.toml: {place} is {pin}, docker/locks/{file} has {told}"
    for version in _versions(read.get("cuda.txt", {}).get("cuda-toolkit", [])):
        if not version.startswith(f"{pins.versions.torch_cuda}."):
            yield (
                f"docker/pins.toml: versions.torch_cuda is {pins.versions.torch_cuda}, "
                f"docker/locks/cuda.txt has CUDA {version}"
            )


def _versions(requirements: list[Requirement]) -> set[str]:
    return {each.version for one in requirements for each in one.specifier}
