"""docker/pins.toml as typed, frozen values: the only reader of the only file with versions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bench.errors import UsageFault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PINS_FILE = Path(__file__).resolve().parents[2] / "docker" / "pins.toml"

# A released version in PEP 440's spelling; a range or a branch name is not a pin.
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*((a|b|rc|\.post)\d+)?$")]
# name:tag@digest. The tag tells a reader what it is; the digest decides.
PinnedImage = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/:-]*:[\w.-]+@sha256:[0-9a-f]{64}$")
]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# SOURCE_DATE_EPOCH: https://reproducible-builds.org/specs/source-date-epoch/. Not before 1980,
# which is the earliest time that a wheel, being a zip archive, can give its members.
Epoch = Annotated[int, Field(ge=315532800)]
# A GPU's compute capability without its dot: 86, 90a.
CudaArch = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{1,2}[af]?$")]
BuildType = Literal["Debug", "RelWithDebInfo", "Release"]
# The name goes into an image tag, before the content id.
ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,40}$")]


class Frozen(BaseModel):
    """A table of pins.toml: nothing unknown in it, nothing changed later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Versions(Frozen):
    """Versions that every profile shares."""

    tvm: Version
    tvm_ffi: Version
    torch: Version
    torch_cuda: Version
    nvcc_wheel: Version
    cmake: Version
    ninja: Version


class Profile(Frozen):
    """What one kind of image is made from.

    ``torch`` is the build: PyPI's is the CUDA one. ``tvm`` is ``wheel`` or a key of
    ``[sources]``; what follows it belongs to a source build. ``llvm`` is a key of ``[llvm]``, or
    ``apt:`` and a major version for the distribution's own. ``cuda`` is the toolkit that the base
    brings, ``cuda_arch`` the GPUs compiled for, ``budget_gib`` the most that the image may take.
    """

    summary: str
    device: Literal["cpu", "cuda"]
    base: PinnedImage
    torch: Literal["cpu", "cuda"]
    tvm: str
    llvm: str | None = None
    build_type: BuildType | None = None
    cuda: Version | None = None
    cuda_arch: tuple[CudaArch, ...] = ()
    budget_gib: Annotated[float, Field(gt=0)]

    @property
    def from_source(self) -> bool:
        """Whether TVM is compiled for it."""
        return self.tvm != "wheel"


class Source(Frozen):
    """TVM's sources: a commit, and the commit of every submodule by its path, nested ones too.

    ``read_by_parent`` names submodules whose commit this list does not know: the commit of the
    repository around them fixes it. ``source_date_epoch`` is the commit's date, in seconds since
    1970, and that of all that is compiled from it.
    """

    url: str
    commit: Commit
    source_date_epoch: Epoch
    tvm_ffi: Version
    gitlinks: dict[str, Commit]
    read_by_parent: tuple[str, ...] = ()


class Llvm(Frozen):
    """A release of LLVM as an archive, the folder in it, and the Debian packages it needs."""

    url: str
    sha256: Sha256
    folder: Annotated[str, StringConstraints(pattern=r"^[\w.+-]+$")]
    apt: tuple[str, ...] = ()


class Defaults(Frozen):
    """The profiles taken where the user names none: for jobs, and for building an image.

    ``source_date_epoch`` is the date of all in an image whose TVM is a wheel.
    """

    profile: ProfileName
    gpu_profile: ProfileName
    build_profile: ProfileName
    source_date_epoch: Epoch

    @property
    def profiles(self) -> tuple[ProfileName, ...]:
        """Every profile that is named here."""
        return (self.profile, self.gpu_profile, self.build_profile)


class BaseImagePins(Frozen):
    """What ``invoke base-image`` makes."""

    suite: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]
    variant: Literal["minbase"]
    tag: Annotated[str, StringConstraints(pattern=r"^[a-z0-9./-]+:[\w.-]+$")]


class WeightsPin(Frozen):
    """A repository of weights on a hub: its commit, and the sha256 of model.safetensors."""

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Commit
    sha256: Sha256 | None = None


class TextPin(Frozen):
    """A text to train on: its address, and the sha256 of the file."""

    url: Annotated[str, StringConstraints(pattern=r"^https://")]
    sha256: Sha256


class Pins(Frozen):
    """The whole file."""

    versions: Versions
    defaults: Defaults
    profiles: dict[ProfileName, Profile]
    sources: dict[Version, Source]
    llvm: dict[Version, Llvm]
    weights: dict[str, WeightsPin]
    texts: dict[str, TextPin]
    base_image: BaseImagePins

    @model_validator(mode="after")
    def _names_exist(self) -> Pins:
        for name in self.defaults.profiles:
            if name not in self.profiles:
                raise ValueError(f"the profile {name!r} is not there")
        for name, profile in self.profiles.items():
            if not profile.from_source:
                continue
            if profile.tvm not in self.sources:
                raise ValueError(f"the profile {name!r} names no entry of [sources]: {profile.tvm}")
            if profile.llvm is None or profile.build_type is None:
                raise ValueError(f"the profile {name!r} compiles TVM: it needs llvm and build_type")
            if not re.match(r"apt:\d+$", profile.llvm) and profile.llvm not in self.llvm:
                raise ValueError(f"the profile {name!r} names no entry of [llvm]: {profile.llvm}")
            if (profile.device == "cuda") != bool(profile.cuda_arch and profile.cuda):
                raise ValueError(f"the profile {name!r}: cuda and cuda_arch go with device cuda")
        return self

    def profile(self, name: str) -> Profile:
        """The profile of that name.

        Raises:
            UsageFault: there is none.
        """
        if name not in self.profiles:
            known = ", ".join(self.profiles)
            raise UsageFault(f"unknown profile: {name}", hint=f"one of: {known}")
        return self.profiles[name]

    def resolved(self, name: str) -> dict[str, str]:
        """Every pin of one profile, by label name: what its image is labelled with.

        Raises:
            UsageFault: there is no such profile.
        """
        profile = self.profile(name)
        source = self.sources[profile.tvm] if profile.from_source else None
        return {
            "tvm": profile.tvm if source else self.versions.tvm,
            "tvm_ffi": source.tvm_ffi if source else self.versions.tvm_ffi,
            "torch": self.versions.torch,
            "device": profile.device,
            "base": profile.base,
            "torch_build": profile.torch,
            "tvm_source": "source" if source else "wheel",
        }


def load(path: Path = PINS_FILE) -> Pins:
    """Read and validate a pins file.

    Raises:
        UsageFault: it cannot be read, is not TOML, or does not fit; names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(f"cannot read {path}: {error}", hint="git checkout docker/") from error
    try:
        return Pins.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        # Without a line the parser means the end of the file.
        line = int(found[1]) if found else len(text.splitlines())
        raise _damaged(path, line, str(error)) from error
    except ValidationError as error:
        # A misspelt key is both missing and unknown; only the unknown one stands on a line.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        # Only the check of [defaults] is about the file as a whole.
        place = [str(part) for part in first["loc"]] or ["defaults"]
        what = first["msg"].removeprefix("Value error, ")
        raise _damaged(path, line_of(text, place), f"{'.'.join(place)}: {what}") from error


def _damaged(path: Path, line: int, what: str) -> UsageFault:
    return UsageFault(
        f"{path}, line {line}: {what}",
        hint=f"correct that line; git diff {path.name} shows what was changed",
    )


def line_of(text: str, place: Sequence[str]) -> int:
    """The line, from 1, of a key; where it is missing, that of the nearest table above it.

    Knows what this file uses: ``[table.headers]`` and one ``key = value`` a line.
    """
    header: list[str] = []
    best, best_depth = 1, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if table := re.match(r"\s*\[([^\[\]]+)\]", line):
            header = [part.strip().strip("\"'") for part in table[1].split(".")]
            here = header
        elif key := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            here = header + [part.strip("\"'") for part in key[1].split(".")]
        else:
            continue
        if len(here) > best_depth and here == list(place[: len(here)]):
            best, best_depth = number, len(here)
    return best
