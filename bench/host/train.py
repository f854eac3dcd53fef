"""What `invoke train` is asked for, as a TrainSpec and the files and folders that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import checkpoint
from bench.catalog import MODELS, BertConfig
from bench.errors import UsageFault
from bench.host import runs, texts
from bench.host import weights as checkpoints
from bench.training import (
    CHECKPOINT_DIR,
    FINETUNE,
    INIT_INPUT,
    PRESETS,
    RESUME_INPUT,
    STATE_FILE,
    TEXT_INPUT,
    TrainSpec,
    check_resumable,
    read_state,
)

_GEOMETRY = ("n_layer", "n_head", "n_embd")
# Where the option is not the field's own name.
_OPTION = {
    "timeout_s": "--timeout",
    "n_layer": "--layers",
    "n_head": "--heads",
    "n_embd": "--width",
}
_CHOOSE = "; choose "


def plan(
    *,
    results: Path,
    environ: Mapping[str, str],
    text: str | None = None,
    preset: str | None = None,
    resume: str | None = None,
    init: str | None = None,
    **options: Any,
) -> tuple[TrainSpec, dict[str, Path]]:
    """The spec of a training run, and its inputs by name.

    Args:
        results: where runs are kept, for ``resume`` and ``init``.
        environ: the cache folder, proxies, the CA bundle.
        text: a file, a URL (with ``#sha256=…`` to have it checked) or a name in
            docker/pins.toml; None takes the one that is pinned, or the resumed run's.
        preset: a name in ``bench.training.PRESETS``; None takes the device's.
        resume: a run, or the directory of its checkpoint, to go on with.
        init: a run or weights (see ``bench.host.weights.resolve``) to begin with.
        options: fields of ``TrainSpec``, as numbers or as what was typed; None is not given.

    Raises:
        UsageFault: an option's value cannot be used, options contradict each other, or a text
            or checkpoint cannot be had.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if resume is not None:
        if init is not None:
            raise UsageFault(
                "--resume goes on with a run, --init begins a new one from its weights",
                hint="leave one of them out",
            )
        return _resumed(resume, text, preset, given, results, environ)
    name = preset or (FINETUNE if init else _preset_for(given.get("device")))
    wanted = _defaults(name, given)
    inputs: dict[str, Path] = {}
    found: checkpoints.Resolved | None = None
    if init is not None:
        found = checkpoints.resolve(init, results, environ)
        wanted |= _of_weights(found, given, wanted)
        inputs[INIT_INPUT] = found.directory
    elif name == FINETUNE:
        raise UsageFault(
            f"the preset {FINETUNE} needs weights to begin with", hint="--init RUN_OR_WEIGHTS"
        )
    # A first look, so that nothing is fetched for a request that cannot be met.
    first = _validated({**wanted, "text": "", "text_sha256": "0" * 64})
    if found is not None and first.block_size > found.geometry.block_size:
        most = found.geometry.block_size
        raise UsageFault(
            f"--block-size {first.block_size} is over the {most} positions of {found.source}",
            hint=f"--block-size {most}",
        )
    chosen = texts.named(text, environ)
    inputs[TEXT_INPUT] = chosen.path
    spec = _validated({**wanted, "text": chosen.name, "text_sha256": chosen.sha256})
    return spec, inputs


def _preset_for(device: Any) -> str:
    return "char-gpu" if device == "cuda" else "char-cpu"


def _defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's fields under those given; what hangs on one of them follows it."""
    if name not in PRESETS:
        raise UsageFault(f"unknown preset '{name}'", hint=f"choose one of: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    wanted = {**preset.model_dump(), "preset": name, "model": name, **given}
    try:
        if "steps" in given:
            # The schedule is as long as the training, with the preset's warm-up at most.
            steps = int(given["steps"])
            wanted["decay_steps"] = given.get("decay_steps", steps)
            wanted["warmup"] = given.get("warmup", min(preset.warmup, steps // 10))
        if "learning_rate" in given:
            ratio = preset.min_lr / preset.learning_rate
            wanted["min_lr"] = given.get("min_lr", float(given["learning_rate"]) * ratio)
    except (ValueError, OverflowError):
        pass  # no number: validation says so, by the option's name
    return wanted


def _of_weights(
    found: checkpoints.Resolved, given: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """What the weights decide, which no option can change."""
    geometry = found.geometry
    if isinstance(geometry, BertConfig):
        raise UsageFault(
            f"{found.source} is a BERT, which is not trained to continue text",
            hint="name a GPT: --init RUN, or --init hf:gpt2",
        )
    if wanted["architecture"] != "gpt":
        raise UsageFault(
            f"the preset {wanted['preset']} is not for the weights of a GPT",
            hint=f"--preset {FINETUNE}",
        )
    for name in _GEOMETRY:
        if name in given and str(given[name]) != str(getattr(geometry, name)):
            raise UsageFault(
                f"{_OPTION[name]} {given[name]}, but the weights of {found.source} have "
                f"{getattr(geometry, name)}",
                hint="leave it out: the weights bring their geometry",
            )
    block = min(geometry.block_size, PRESETS[wanted["preset"]].block_size)
    known = (name for name, other in MODELS.items() if other == geometry)
    return {
        **{name: getattr(geometry, name) for name in _GEOMETRY},
        "block_size": given.get("block_size", block),
        "init_sha256": found.sha256,
        "model": next(known, wanted["model"]),
    }


def _resumed(
    resume: str,
    text: str | None,
    preset: str | None,
    given: Mapping[str, Any],
    results: Path,
    environ: Mapping[str, str],
) -> tuple[TrainSpec, dict[str, Path]]:
    directory = _checkpoint_of(resume, results)
    state = read_state(directory)
    earlier = state.spec
    if preset not in (None, earlier.preset):
        raise UsageFault(
            f"cannot resume with the preset {preset}: the run was begun with {earlier.preset}",
            hint="leave --preset out; to begin anew from its weights: invoke train --init RUN",
        )
    wanted = {**earlier.model_dump(), **given, "resume_sha256": checkpoint.digest(directory)}
    # A first look, so that nothing is fetched for a request that cannot be met.
    spec = _validated(wanted)
    check_resumable(earlier, spec, state.step)
    if spec.steps == state.step:
        raise UsageFault(
            f"the run has made all of its {state.step} steps", hint="to go further: --steps N"
        )
    chosen = texts.named(text, environ) if text is not None else texts.of_run(earlier, environ)
    spec = _validated({**wanted, "text": chosen.name, "text_sha256": chosen.sha256})
    check_resumable(earlier, spec, state.step)
    return spec, {TEXT_INPUT: chosen.path, RESUME_INPUT: directory}


def _checkpoint_of(resume: str, results: Path) -> Path:
    """The checkpoint to resume: a directory's, or that of a published run."""
    if resume and Path(resume).is_dir():
        path = Path(resume)
        return (path if (path / STATE_FILE).exists() else path / CHECKPOINT_DIR).absolute()
    run = runs.find(results, resume, holding=CHECKPOINT_DIR if resume == "last" else None)
    directory = run / CHECKPOINT_DIR
    if not directory.is_dir():
        raise UsageFault(
            f"the run {run.name} has no checkpoint", hint="`invoke train` makes runs that have one"
        )
    return directory.absolute()


def _validated(wanted: Mapping[str, Any]) -> TrainSpec:
    try:
        return TrainSpec.model_validate(wanted)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        field = str(first["loc"][0]) if first["loc"] else None
        if first["type"] != "value_error" and field is not None:
            option = _OPTION.get(field, f"--{field.replace('_', '-')}")
            message = f"{option} {first['input']!r}: {message}"
        said, _, choice = message.partition(_CHOOSE)
        hint = f"choose {choice}" if choice else "see: invoke train --help"
        raise UsageFault(said, hint=hint) from error
