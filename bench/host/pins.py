"""docker/pins.toml as typed, frozen values: the only reader of the only file with versions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

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


class Profile(Frozen):
    """What one kind of image is made from. ``torch`` is the build: PyPI's is the CUDA one."""

    summary: str
    device: Literal["cpu", "cuda"]
    base: PinnedImage
    torch: Literal["cpu", "cuda"]
    tvm: Literal["wheel"]


class Defaults(Frozen):
    """The profiles taken where the user names none."""

    profile: ProfileName
    gpu_profile: ProfileName


class BaseImagePins(Frozen):
    """What ``invoke base-image`` makes."""

    suite: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]
    variant: Literal["minbase"]
    tag: Annotated[str, StringConstraints(pattern=r"^[a-z0-9./-]+:[\w.-]+$")]


class Pins(Frozen):
    """The whole file."""

    versions: Versions
    defaults: Defaults
    profiles: dict[ProfileName, Profile]
    base_image: BaseImagePins

    @model_validator(mode="after")
    def _defaults_exist(self) -> Pins:
        for name in (self.defaults.profile, self.defaults.gpu_profile):
            if name not in self.profiles:
                raise ValueError(f"the profile {name!r} is not there")
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
        return {
            **self.versions.model_dump(),
            "device": profile.device,
            "base": profile.base,
            "torch_build": profile.torch,
            "tvm_source": profile.tvm,
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
