"""What a developer asked for, kept so that an editor that reopens the folder asks for the same."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import UsageFault
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins
from bench.host.recipe import BuildRequest

FILE = "choice.json"


class Choice(BaseModel):
    """The options of ``invoke devcontainer`` that say what is in the container."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = None
    base: str | None = None
    build_type: str | None = None
    tvm_ref: str | None = None
    cuda_from_wheels: bool = False
    private_repo: str | None = None
    private_ref: str | None = None

    def request(
        self,
        pins: Pins,
        mirrors: Mirrors,
        *,
        jobs: int | None = None,
        mirror_folder: Path | None = None,
    ) -> BuildRequest:
        """As the build of an image takes it. The private repository is cloned inside, later."""
        return BuildRequest(
            profile=self.profile or pins.defaults.profile,
            base=self.base,
            build_type=self.build_type,
            tvm_ref=self.tvm_ref,
            cuda_from_wheels=self.cuda_from_wheels,
            jobs=jobs,
            mirrors=mirrors,
            mirror_folder=mirror_folder,
        )


def load(folder: Path) -> Choice:
    """What was kept in ``folder``; the defaults where nothing was.

    Raises:
        UsageFault: the file there is none of ours.
    """
    path = folder / FILE
    try:
        return Choice.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Choice()
    except (OSError, ValueError, ValidationError) as error:
        raise UsageFault(
            f"cannot read {path}: {str(error).splitlines()[0]}",
            hint=f"rm {path}; then say again what you want: invoke devcontainer --help",
        ) from error


def keep(choice: Choice, folder: Path) -> None:
    """Write it whole, by one rename."""
    beside = folder / f".{FILE}.{os.getpid()}"
    beside.write_text(choice.model_dump_json(indent=2, exclude_defaults=True) + "\n")
    beside.replace(folder / FILE)
