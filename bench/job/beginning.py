"""What training begins with: the text, and fresh weights, a checkpoint's, or an earlier run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench import checkpoint
from bench.catalog import GPTConfig, input_variable
from bench.errors import UsageFault
from bench.job import bigram, tokenizer, train_model, weights
from bench.job import text as texts
from bench.job import training_state as saved
from bench.job.bigram import Bigram
from bench.job.text import CharTokenizer
from bench.job.tokenizer import Tokenizer
from bench.job.train_model import Trainable
from bench.training import (
    INIT_INPUT,
    RESUME_INPUT,
    TEXT_INPUT,
    State,
    TrainSpec,
    check_resumable,
    read_state,
)


@dataclass(frozen=True)
class Begun:
    """What training goes on from: fresh weights, a checkpoint's, or a whole earlier run."""

    model: Trainable | Bigram
    tokenizer: Tokenizer
    files: dict[str, bytes]  # the tokenizer's, by name
    state: State | None = None
    resumed: Path | None = None

    @property
    def vocab_size(self) -> int:
        """That of the model, which may be over the tokenizer's."""
        model = self.model
        return model.vocab_size if isinstance(model, Bigram) else model.config.vocab_size


def begin(spec: TrainSpec, text: str) -> Begun:
    """The model, the tokenizer and, for a run that is resumed, its state.

    Raises:
        UsageFault: a checkpoint is not the one that the spec names, is damaged, or is of
            another training.
    """
    if spec.resume_sha256 is not None:
        directory = _directory(RESUME_INPUT, spec.resume_sha256)
        state = read_state(directory)
        check_resumable(state.spec, spec, state.step)
        saved.check_whole(directory, state)
        return _from_checkpoint(spec, directory, state)
    if spec.init_sha256 is not None:
        return _from_checkpoint(spec, _directory(INIT_INPUT, spec.init_sha256), None)
    characters = CharTokenizer.from_text(text)
    size = characters.vocab_size
    model: Trainable | Bigram
    if spec.architecture == "bigram":
        model = bigram.build(size, spec.seed)
    else:
        config = GPTConfig(spec.n_layer, spec.n_head, spec.n_embd, spec.block_size, size)
        model = train_model.initialised(config, spec.dropout, spec.seed)
    return Begun(model, characters, {texts.VOCABULARY_FILE: characters.to_json().encode()})


def _from_checkpoint(spec: TrainSpec, directory: Path, state: State | None) -> Begun:
    model: Trainable | Bigram
    if checkpoint.model_type(directory) == bigram.MODEL_TYPE:
        model = bigram.load(directory)
    else:
        model = train_model.trainable(weights.load_gpt(directory), spec.dropout)
        if spec.block_size > model.config.block_size:
            raise UsageFault(
                f"a block of {spec.block_size} tokens is longer than the {model.config.block_size} "
                "positions that the model has",
                hint=f"--block-size {model.config.block_size}",
            )
    words = tokenizer.load(directory)
    resumed = directory if state else None
    begun = Begun(model, words, saved.tokenizer_files(directory), state, resumed)
    if words.vocab_size > begun.vocab_size:
        raise UsageFault(
            f"the tokenizer has {words.vocab_size} tokens, the model {begun.vocab_size}",
            hint="bring the tokenizer that belongs to these weights",
        )
    return begun


def text_of(spec: TrainSpec) -> str:
    """The text that the spec names.

    Raises:
        UsageFault: it cannot be read, is another one, is empty, or is not UTF-8.
    """
    path = _input(TEXT_INPUT)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageFault(
            f"cannot read the text {spec.text}: {error.strerror}", hint="name another: --text FILE"
        ) from error
    text = texts.decoded(content)
    found = hashlib.sha256(content).hexdigest()
    if found != spec.text_sha256:
        raise UsageFault(
            f"the text {spec.text} is another one: sha256 {found}, expected {spec.text_sha256}",
            hint="let nothing write to it while it is read, and start again",
        )
    return text


def _directory(name: str, sha256: str) -> Path:
    directory = _input(name)
    found = checkpoint.digest(directory)
    if found != sha256:
        raise UsageFault(
            f"the checkpoint to {name} changed since the job was asked for: digest {found}, "
            f"expected {sha256}",
            hint="let nothing write to it while it is used, and start again",
        )
    return directory


def _input(name: str) -> Path:
    variable = input_variable(name)
    if not os.environ.get(variable):
        raise UsageFault(f"no {name}: {variable} is not set", hint="start with: invoke train")
    return Path(os.environ[variable])
