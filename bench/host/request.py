"""What the user typed to a validated spec or BuildRequest; errors say what to type instead."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import cores
from bench.catalog import MODELS, BertConfig
from bench.errors import UsageFault
from bench.generation import EvaluateSpec, GenerateSpec
from bench.host import mirrors, texts
from bench.host import weights as checkpoints
from bench.host.lock import frozen as frozen_lock
from bench.host.recipe import BuildRequest
from bench.record import JobSpec, Weights

_CHOOSE = "; choose "
_OPTION = {
    "timeout_s": "--timeout",
    "batch": "--trials-per-turn",
}  # where the option is not the field's own name


@dataclass(frozen=True)
class Request:
    """A spec, and what lies on this machine that it asks for."""

    spec: JobSpec | GenerateSpec | EvaluateSpec
    inputs: dict[str, Path] = field(default_factory=dict)


def job(weights: str | None, results: Path, **options: Any) -> Request:
    """A benchmark or a compilation, of a preset or of a checkpoint.

    Raises:
        UsageFault: an option's value cannot be used, or the weights cannot be had.
    """
    if weights is None:
        return Request(spec_from(**options))
    found = checkpoints.resolve(weights, results, os.environ)
    model = options.pop("model")
    if model is not None and MODELS.get(model) != found.geometry:
        raise UsageFault(
            f"--model {model} is not the geometry of {found.source}: {vars(found.geometry)}",
            hint="leave --model out: the weights bring their own",
        )
    spec = spec_from(**options, model=_label(found), weights=_weights(found))
    return Request(spec, {"weights": found.directory})


def generation(weights: str, results: Path, **options: Any) -> Request:
    """Text to be continued by a checkpoint.

    Raises:
        UsageFault: as ``job``.
    """
    found = checkpoints.resolve(weights, results, os.environ)
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("prompt") == "":
        raise UsageFault(
            "the prompt is empty", hint="leave --prompt out to begin with one zero token"
        )
    try:
        spec = GenerateSpec.model_validate(
            {**given, "model": _label(found), "weights": _weights(found)}
        )
    except ValidationError as error:
        raise refusal(error, "generate") from error
    return Request(spec, {"weights": found.directory})


def evaluation(weights: str, text: str | None, results: Path, **options: Any) -> Request:
    """A checkpoint's loss on the validation split of a text, by default its training's.

    Raises:
        UsageFault: as ``job``; or the text cannot be had.
    """
    found = checkpoints.resolve(weights, results, os.environ)
    chosen = texts.of_checkpoint(text, found.directory, os.environ)
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("backends"), str):
        given["backends"] = _split(given["backends"])
    try:
        spec = EvaluateSpec.model_validate(
            {
                **given,
                "model": _label(found),
                "weights": _weights(found),
                "text_sha256": chosen.sha256,
            }
        )
    except ValidationError as error:
        raise refusal(error, "evaluate") from error
    return Request(spec, {"weights": found.directory, "text": chosen.path})


def _weights(found: checkpoints.Resolved) -> dict[str, Any]:
    return Weights.of(found.source, found.sha256, found.geometry).model_dump()


def _label(found: checkpoints.Resolved) -> str:
    """The preset whose geometry it is, or else where it is from, for tables."""
    known = (name for name, geometry in MODELS.items() if geometry == found.geometry)
    return next(known, "custom")


def spec_from(**options: Any) -> JobSpec:
    """The spec for the options given; those that are None keep the spec's own default.

    Raises:
        UsageFault: an option's value cannot be used; the first one is named.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "mode" not in given:
        weights = given.get("weights")
        geometry = (
            Weights.model_validate(weights).config()
            if weights
            else MODELS.get(given.get("model", ""))
        )
        if isinstance(geometry, BertConfig):
            given["mode"] = "encode"
    if isinstance(given.get("backends"), str):
        given["backends"] = _split(given["backends"])
    if isinstance(given.get("pin"), str):
        given["pin"] = cores.parse(given["pin"])
    try:
        spec = JobSpec.model_validate(given)
    except ValidationError as error:
        raise refusal(error, "bench") from error
    if spec.pin is not None and spec.threads is not None and spec.threads > len(spec.pin):
        raise UsageFault(
            f"--threads {spec.threads} is more than the {len(spec.pin)} cores of --pin",
            hint="leave --threads out: a pinned run has a thread for each of its cores",
        )
    return spec


def _split(names: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, names.split(","))))


def build_request(
    *,
    cuda_arch: str | None = None,
    jobs: str | None = None,
    mirror: Sequence[str] = (),
    wheelhouse: str | None = None,
    mirror_folder: str | None = None,
    frozen: bool = False,
    no_frozen: bool = False,
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
        frozen=frozen_lock.wanted(frozen, no_frozen, os.environ),
        frozen_packages=frozen,
        **options,
    )


def refusal(error: ValidationError, verb: str) -> UsageFault:
    """What pydantic refuses, in the words of the options."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    field = str(first["loc"][0]) if first["loc"] else None
    if first["type"] != "value_error" and field is not None:
        option = _OPTION.get(field, f"--{field.replace('_', '-')}")
        message = f"{option} {first['input']!r}: {message}"
    said, _, choice = message.partition(_CHOOSE)
    return UsageFault(said, hint=f"choose {choice}" if choice else f"see: invoke {verb} --help")
