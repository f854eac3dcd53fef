"""The content id: what decides what is in an image, in one number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.errors import UsageFault
from bench.host.pins import Profile
from bench.host.recipe import TvmBuild


def lock_files(profile: Profile, tvm: TvmBuild | None) -> list[str]:
    """The files of docker/locks that an image is made from."""
    locks = ["requirements.txt", "torch.txt", "torch-cpu-hashes.txt"]
    locks += ["torch-cuda.txt"] * (profile.torch == "cuda")
    if tvm is None:
        return [*locks, "tvm.txt"]
    locks += ["cuda.txt"] * (tvm.cuda_from == "wheels")
    return [*locks, f"tvm-{tvm.version}.txt", "build.txt"]


def inputs(root: Path, locks: Iterable[str], from_source: bool) -> Iterator[Path]:
    """Every file of the project that goes into an image, in a fixed order."""
    yield root / "docker" / "Dockerfile"
    yield root / "docker" / "apt-install.sh"
    yield root / "docker" / "settle.sh"
    yield root / ".dockerignore"
    if from_source:
        yield root / "cmake" / "config.cmake"
    for lock in locks:
        yield root / "docker" / "locks" / lock
    yield root / "bench" / "host" / "venv.py"
    yield from sorted((root / "bench").glob("*.py"))
    for room in ("build", "job"):
        for path in sorted((root / "bench" / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path


def content_id(
    root: Path,
    locks: Iterable[str],
    from_source: bool,
    labels: Mapping[str, str],
    arguments: Mapping[str, str],
) -> str:
    """sha256 over all that decides what is in an image: files with their modes, pins, base."""
    entries = []
    for path in inputs(root, locks, from_source):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageFault(f"cannot read {path}: {error}", hint="git checkout docker/") from error
        # The image's modes are u=rwX,go=rX, so that only this bit of the checkout's counts.
        executable = bool(path.stat().st_mode & 0o100)
        digest = hashlib.sha256(content).hexdigest()
        entries.append([path.relative_to(root).as_posix(), executable, digest])
    decided = {
        "files": entries,
        "labels": dict(sorted(labels.items())),
        "arguments": dict(sorted(arguments.items())),
    }
    text = json.dumps(decided)
    return hashlib.sha256(text.encode()).hexdigest()
