"""What the user typed to a validated JobSpec or BuildRequest; errors say what to type instead."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import UsageFault
from bench.host import mirrors
from bench.host.recipe import BuildRequest
from bench.record import JobSpec

_CHOOSE = "; choose "
_OPTION = {"timeout_s": "--timeout"}  # where the option is not the field's own name


def spec_from(**options: Any) -> JobSpec:
    """The spec for the options given; those that are None keep the spec's own default.

    Raises:
        UsageFault: an option's value cannot be used; the first one is named.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("backends"), str):
        given["backends"] = tuple(filter(None, map(str.strip, given["backends"].split(","))))
    try:
        return JobSpec.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from error


def build_request(
    *,
    cuda_arch: str | None = None,
    jobs: str | None = None,
    mirror: Sequence[str] = (),
    wheelhouse: str | None = None,
    mirror_folder: str | None = None,
    **options: Any,
) -> BuildRequest:
    """The request for the options given; mirrors also come from the user's config file.

    Raises:
        UsageFault: an option's value cannot be used.
    """
    architectures = []
    for word in filter(None, (cuda_arch or "").replace(" ", "").split(",")):
        number = re.fullmatch(r"(?:sm_|compute_)?([1-9]\d{1,2}[af]?)", word)
        if number is None:
            raise UsageFault(
                f"--cuda-arch {word}: not a compute capability", hint="as in --cuda-arch 86,90"
            )
        architectures.append(number[1])
    if jobs is not None and (not jobs.isdigit() or int(jobs) < 1):
        raise UsageFault(f"--jobs {jobs}: not a number from 1", hint="as in --jobs 2")
    folder = Path(mirror_folder) if mirror_folder else None
    if folder is not None and not folder.is_dir():
        raise UsageFault(
            f"--mirror-folder {folder} is not a directory", hint="`invoke mirror` makes one"
        )
    return BuildRequest(
        cuda_arch=tuple(architectures),
        jobs=int(jobs) if jobs else None,
        mirrors=mirrors.load(mirror, os.environ),
        wheelhouse=Path(wheelhouse) if wheelhouse else None,
        mirror_folder=folder.resolve() if folder else None,
        **options,
    )


def _refusal(error: ValidationError) -> UsageFault:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    field = str(first["loc"][0]) if first["loc"] else None
    if first["type"] != "value_error" and field is not None:
        option = _OPTION.get(field, f"--{field.replace('_', '-')}")
        message = f"{option} {first['input']!r}: {message}"
    said, _, choice = message.partition(_CHOOSE)
    return UsageFault(said, hint=f"choose {choice}" if choice else "see: invoke bench --help")
