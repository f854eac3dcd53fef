"""A training run's checkpoint: weights, vocabulary, optimizer and state; written whole or not.

config.json, model.safetensors     the model, in the layout of bench.job.weights
vocabulary.json                    or the files of the tokenizer that the model came with
optimizer.safetensors              AdamW's two moments of every parameter, by its name
state.json                         bench.training.State: step, curve, spec, sums of the two
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.checkpoint import file_inside
from bench.errors import UsageFault
from bench.job import bigram, weights
from bench.job.bigram import Bigram
from bench.job.gpt import GPT
from bench.job.text import VOCABULARY_FILE
from bench.training import (
    CHECKPOINT_DIR,
    OPTIMIZER_FILE,
    PARTIAL_DIR,
    PREVIOUS_DIR,
    STATE_FILE,
    Point,
    State,
    TrainSpec,
    settle_checkpoint,
)

_ANOTHER = "resume another run, or begin anew from the weights: --init PATH"

MODEL_FILE = "model.safetensors"
# What a model reads and writes text by, whichever of them it has.
TOKENIZER_FILES = (
    VOCABULARY_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Position:
    """How far a training is: after ``step`` updates, ``elapsed_s`` seconds since it began."""

    spec: TrainSpec
    step: int
    curve: Sequence[Point]
    elapsed_s: float


def write(
    directory: Path,
    model: GPT | Bigram,
    optimizer: torch.optim.AdamW,
    tokenizer: Mapping[str, bytes],
    position: Position,
) -> None:
    """Replace the checkpoint in ``directory``, the run's, by a new one.

    Args:
        directory: the run's; the checkpoint is a folder of it.
        model: its weights are kept as float32.
        optimizer: of ``model``'s parameters.
        tokenizer: the tokenizer's files by name.
        position: how far the training is.

    Raises:
        OSError: the disk is full or not writable; the checkpoint before is still there.
    """
    settle_checkpoint(directory)
    partial = directory / PARTIAL_DIR
    partial.mkdir()
    try:
        _fill(partial, model, optimizer, tokenizer, position)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk, room for the run's record
        if isinstance(error, SafetensorError):  # what it makes of a full disk
            raise OSError(f"cannot write {partial}: {error}") from error
        raise
    current, previous = directory / CHECKPOINT_DIR, directory / PREVIOUS_DIR
    if current.is_dir():
        current.rename(previous)
    partial.rename(current)
    shutil.rmtree(previous, ignore_errors=True)


def check_whole(checkpoint: Path, state: State) -> None:
    """Refuse a checkpoint whose tensors are not those its state was written with.

    Raises:
        UsageFault: a file is missing or another one.
    """
    for name, wanted in (
        (MODEL_FILE, state.model_sha256),
        (OPTIMIZER_FILE, state.optimizer_sha256),
    ):
        try:
            found = sum_of(checkpoint / name)
        except OSError as error:
            raise UsageFault(
                f"cannot resume: {name} cannot be read: {error.strerror}", hint=_ANOTHER
            ) from error
        if found != wanted:
            raise UsageFault(
                f"cannot resume: {name} is damaged or of another run (sha256 {found}, "
                f"{STATE_FILE} says {wanted})",
                hint=_ANOTHER,
            )


def restore_moments(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.AdamW, step: int
) -> None:
    """Give ``optimizer`` what it had remembered when the checkpoint was written.

    Raises:
        UsageFault: the file is damaged, or does not belong to this model.
    """
    path = checkpoint / OPTIMIZER_FILE
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageFault(
            f"cannot resume: {OPTIMIZER_FILE} cannot be read: {error}", hint=_ANOTHER
        ) from error
    for name, parameter in model.named_parameters():
        kept: dict[str, torch.Tensor] = {"step": torch.tensor(float(step))}
        for moment in _MOMENTS:
            tensor = found.pop(f"{moment}.{name}", None)
            if step == 0 and tensor is None:
                continue
            if tensor is None or tensor.shape != parameter.shape:
                has = "nothing" if tensor is None else str(tuple(tensor.shape))
                raise UsageFault(
                    f"cannot resume: {OPTIMIZER_FILE} has {has} for {moment}.{name}, the "
                    f"parameter is {tuple(parameter.shape)}",
                    hint=_ANOTHER,
                )
            kept[moment] = tensor.to(parameter.device)
        if len(kept) > 1:
            optimizer.state[parameter] = kept
    if found:
        raise UsageFault(
            f"cannot resume: {OPTIMIZER_FILE} has unknown tensors: {sorted(found)}", hint=_ANOTHER
        )


def tokenizer_files(checkpoint: Path) -> dict[str, bytes]:
    """The files of a checkpoint's tokenizer by name, to keep beside weights made from it."""
    there = (name for name in TOKENIZER_FILES if (checkpoint / name).exists())
    return {name: file_inside(checkpoint, name).read_bytes() for name in there}


def sum_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fill(
    partial: Path,
    model: GPT | Bigram,
    optimizer: torch.optim.AdamW,
    tokenizer: Mapping[str, bytes],
    position: Position,
) -> None:
    if isinstance(model, Bigram):
        bigram.save(model, partial)
    else:
        weights.save_gpt(model, partial)
    for name, content in tokenizer.items():
        (partial / name).write_bytes(content)
    save_file(_moments(model, optimizer), partial / OPTIMIZER_FILE)
    state = State(
        spec=position.spec,
        step=position.step,
        curve=list(position.curve),
        elapsed_s=position.elapsed_s,
        model_sha256=sum_of(partial / MODEL_FILE),
        optimizer_sha256=sum_of(partial / OPTIMIZER_FILE),
    )
    (partial / STATE_FILE).write_text(state.model_dump_json(indent=2) + "\n")
    for path in partial.iterdir():
        # safetensors makes files that only their owner reads; a container that goes on with the run
        # may be another.
        path.chmod(0o644)
        _to_disk(path)


def _moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state  # not before the first update
        for moment in _MOMENTS
    }


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
