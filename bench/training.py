"""Training as host and job both know it: presets, the spec, what a checkpoint says of itself.

    PRESETS -> TrainSpec -> spec.json        the host's request
    state.json                               a checkpoint: how far it is, and by which spec
    Training                                 what record.json keeps under ``training``

Losses are mean cross-entropies in nats a token. Plain data: neither torch nor docker.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.checkpoint import brief
from bench.errors import UsageFault

if TYPE_CHECKING:
    from bench.record import RecordedSpec

SCHEMA_VERSION = 1

# Beside the spec: the checkpoint, and what it is called while it is being written or replaced.
CHECKPOINT_DIR = "checkpoint"
PARTIAL = ".partial"
PARTIAL_DIR = f"{CHECKPOINT_DIR}{PARTIAL}"
PREVIOUS_DIR = "checkpoint.previous"
STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
TOKENS_FILE = "tokens.bin"  # the encoded text, while the job runs
LOSS_TABLE = "loss.csv"
LOSS_CURVE = "loss.svg"

# Names of the job's inputs (see bench.catalog.input_variable).
TEXT_INPUT = "text"
INIT_INPUT = "init"
RESUME_INPUT = "resume"

FINETUNE = "finetune"

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# It becomes a part of the run directory's name, so it leads nowhere else.
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

_LONGEST_NAME = 1000  # characters of a text's name: longer than a file's, and than most addresses


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Hyperparameters(_Record):
    """What decides the losses, but for the text, the seed and the weights it begins with.

    ``block_size`` is the length of a training sequence in tokens, ``batch_size`` how many go
    into one step. The learning rate rises over ``warmup`` steps, falls as a cosine to ``min_lr``
    at ``decay_steps``, and stays there. A ``grad_clip`` of 0 clips nothing.
    """

    architecture: Literal["gpt", "bigram"] = "gpt"
    n_layer: Natural
    n_head: Natural
    n_embd: Natural
    block_size: Count
    batch_size: Count
    steps: Count
    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    min_lr: AtLeastZero
    warmup: Natural
    decay_steps: Count
    beta1: Share = 0.9
    beta2: Share = 0.99
    weight_decay: AtLeastZero = 0.1
    grad_clip: AtLeastZero = 1.0
    dropout: Share = 0.0
    eval_every: Count = 250
    eval_batches: Count = 20


PRESETS: dict[str, Hyperparameters] = {
    # nanoGPT's recipe for a laptop (karpathy/nanoGPT, README, "i only have a macbook"), but with
    # twice its learning rate, which a model this small bears: docs/benchmarks/training.md.
    "char-cpu": Hyperparameters(
        n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12, steps=2000,
        learning_rate=2e-3, min_lr=2e-4, warmup=100, decay_steps=2000,
    ),
    # nanoGPT's config/train_shakespeare_char.py, for one GPU.
    "char-gpu": Hyperparameters(
        n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64, steps=5000,
        learning_rate=1e-3, min_lr=1e-4, warmup=100, decay_steps=5000, dropout=0.2,
        eval_batches=200,
    ),
    # Seconds on any machine: a first try, and what the tests train.
    "char-tiny": Hyperparameters(
        n_layer=2, n_head=2, n_embd=32, block_size=32, batch_size=16, steps=100,
        learning_rate=3e-3, min_lr=3e-4, warmup=10, decay_steps=100, eval_every=50,
        eval_batches=5,
    ),
    # The baseline: the next character by the last one alone.
    "bigram": Hyperparameters(
        architecture="bigram", n_layer=0, n_head=0, n_embd=0, block_size=8, batch_size=32,
        steps=3000, learning_rate=1e-2, min_lr=1e-3, warmup=0, decay_steps=3000,
        weight_decay=0.0, eval_batches=100,
    ),
    # Small steps from good weights. The geometry is that of the weights (--init).
    FINETUNE: Hyperparameters(
        n_layer=12, n_head=12, n_embd=768, block_size=128, batch_size=4, steps=200,
        learning_rate=3e-5, min_lr=3e-6, warmup=10, decay_steps=200, eval_every=50,
    ),
}  # fmt: skip


class TrainSpec(Hyperparameters):
    """A training run: everything that its losses depend on, and what bounds it.

    ``text`` is the text's name for people (a file's name or a URL) and ``text_sha256`` what it
    must be; ``model`` names the model for people. ``init_sha256`` and ``resume_sha256`` are the
    digests of the checkpoints that training begins with or goes on from.

    A resumed run's spec comes from its state.json, which anyone may have written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    kind: Literal["train"] = "train"
    preset: str
    model: ModelName
    text: str
    text_sha256: Sha256
    init_sha256: Sha256 | None = None
    resume_sha256: Sha256 | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32"] = "float32"
    threads: Count | None = Field(default=None, description="null takes every core the job sees")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    timeout_s: Positive = 24 * 3600.0

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"unknown preset {brief(value)}; choose one of: {', '.join(PRESETS)}")
        return value

    @field_validator("text")
    @classmethod
    def _inert_text(cls, value: str) -> str:
        # Not refused: the name of a file may hold anything, and it is for people alone.
        return _inert(value)

    @model_validator(mode="after")
    def _fits(self) -> TrainSpec:
        if self.architecture == "gpt":
            if not (self.n_layer and self.n_head and self.n_embd):
                raise ValueError("a GPT needs layers, heads and a width; choose at least 1 of each")
            if self.n_embd % self.n_head:
                raise ValueError(
                    f"the width {self.n_embd} does not divide into {self.n_head} heads; "
                    f"choose n_embd as a multiple of {self.n_head}"
                )
        if self.min_lr > self.learning_rate:
            raise ValueError(
                f"the learning rate would rise from {self.learning_rate:g} to min_lr "
                f"{self.min_lr:g}; choose a min_lr of at most {self.learning_rate:g}"
            )
        if self.warmup > self.decay_steps:
            raise ValueError(
                f"a warm-up of {self.warmup} steps is longer than the schedule of "
                f"{self.decay_steps}; choose a warmup of at most {self.decay_steps}"
            )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the host has to lay beside the spec."""
        if self.resume_sha256 is not None:
            return (TEXT_INPUT, RESUME_INPUT)
        return (TEXT_INPUT, INIT_INPUT) if self.init_sha256 is not None else (TEXT_INPUT,)

    def recorded(self) -> RecordedSpec:
        """The part of it that every record has, whatever its kind."""
        from bench.record import RecordedSpec  # which holds a Training, so it imports this module

        return RecordedSpec(
            kind=self.kind,
            model=self.model,
            mode="train",
            device=self.device,
            batch_size=self.batch_size,
            seq_len=self.block_size,
            dtype=self.dtype,
            backends=("torch-eager",),
            threads=self.threads,
            seed=self.seed,
            timeout_s=self.timeout_s,
        )


# What may differ when a run is resumed: how long and where it runs, and how often it is looked at.
_FREE = {
    "schema_version", "kind", "preset", "model", "text", "resume_sha256", "device", "threads",
    "timeout_s", "steps", "eval_every", "eval_batches",
}  # fmt: skip


def check_resumable(earlier: TrainSpec, now: TrainSpec, done: int) -> None:
    """Refuse to go on as another training than the one that was begun.

    Args:
        earlier: the spec of the run to resume.
        now: the spec to go on by.
        done: how many steps the run to resume has made.

    Raises:
        UsageFault: a hyperparameter, the text, the seed or the initial weights differ (each is
            named with both values), or fewer steps are wanted than are done.
    """
    differing = [
        f"{key} was {getattr(earlier, key)}, now {getattr(now, key)}"
        for key in TrainSpec.model_fields
        if key not in _FREE and getattr(earlier, key) != getattr(now, key)
    ]
    if differing:
        raise UsageFault(
            f"cannot resume with other hyperparameters: {'; '.join(differing)}",
            hint="leave them out to go on as before; to begin anew from its weights: "
            "invoke train --init RUN",
        )
    if now.steps < done:
        raise UsageFault(
            f"the run to resume has made {done} steps already; {now.steps} are wanted",
            hint=f"more than {done}: --steps N",
        )


class Point(_Record):
    """One evaluation: losses over sampled batches of both splits after ``step`` updates.

    ``tokens_per_s`` is training's own speed since the point before, evaluation left out; null
    at the first point. ``elapsed_s`` counts from the beginning, over resumed runs too.
    """

    step: Natural
    train_loss: float
    val_loss: float
    lr: AtLeastZero
    tokens_per_s: AtLeastZero | None = None
    elapsed_s: AtLeastZero


class State(_Record):
    """``state.json`` of a checkpoint: what training needs to go on, beside the tensors.

    The two sums tell whether the files beside it were written together.
    """

    schema_version: Literal[1] = 1
    spec: TrainSpec
    step: Natural
    curve: list[Point] = []
    elapsed_s: AtLeastZero = 0.0
    model_sha256: Sha256
    optimizer_sha256: Sha256


Stopped = Literal["finished", "interrupted", "not finite"]


class Training(_Record):
    """What came of a training run: ``training`` in record.json.

    ``stopped`` tells how it ended and ``reason`` says it in words, unless it finished.
    ``steps_done`` is that of the checkpoint's weights, or of the step that failed. The losses
    ``best_val_loss`` and ``last_val_loss`` are points of the curve; ``full_val_loss`` is of the
    last weights over all whole blocks of the validation split, ``full_val_tokens`` tokens.
    """

    hyperparameters: Hyperparameters
    preset: str
    text: str
    text_sha256: Sha256
    init_sha256: Sha256 | None = None
    resumed_from_step: Natural | None = None
    seed: Natural
    parameters: Count
    vocab_size: Count
    train_tokens: Count
    val_tokens: Count
    steps_done: Natural
    stopped: Stopped
    reason: str | None = None
    curve: list[Point] = []
    best_val_loss: float | None = None
    best_step: Natural | None = None
    last_val_loss: float | None = None
    full_val_loss: float | None = None
    full_val_tokens: Natural | None = None
    elapsed_s: AtLeastZero
    checkpoint_step: Natural | None = None
    checkpoint_sha256: Sha256 | None = None


def read_state(checkpoint: Path) -> State:
    """The state of a checkpoint, validated.

    Raises:
        UsageFault: there is none, it cannot be read, or it is damaged.
    """
    path = checkpoint / STATE_FILE
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageFault(
            f"{checkpoint} cannot be resumed: it has no {STATE_FILE}",
            hint="weights alone are a beginning: invoke train --init PATH",
        ) from None
    except OSError as error:
        raise UsageFault(
            f"cannot read {path}: {error.strerror}",
            hint="weights alone are a beginning: invoke train --init PATH",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageFault(
            f"{path} is damaged: {_inert(place + ': ' if place else '')}{_inert(first['msg'])}",
            hint="resume another run, or begin anew",
        ) from error


def _inert(text: str) -> str:
    """A foreign text for messages and records: nothing that a terminal obeys, and not long."""
    shown = "".join(one if one.isprintable() else "?" for one in text[: _LONGEST_NAME + 1])
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def settle(run_dir: Path) -> Path | None:
    """Leave one whole checkpoint in a run's directory, whatever moment its job was killed at.

    The host does this when a job is over; what else a job that was killed left of its work goes.

    Returns:
        The checkpoint's directory, None where the job wrote none.
    """
    for name in (TOKENS_FILE, f"{LOSS_TABLE}{PARTIAL}"):
        (run_dir / name).unlink(missing_ok=True)
    return settle_checkpoint(run_dir)


def settle_checkpoint(run_dir: Path) -> Path | None:
    """The part of ``settle`` that is about the checkpoint.

    A checkpoint is written beside the one before and takes its place by two renames; a job that
    is killed between them leaves the older one under its second name.
    """
    current, previous = run_dir / CHECKPOINT_DIR, run_dir / PREVIOUS_DIR
    if previous.is_dir() and not current.is_dir():
        previous.rename(current)
    shutil.rmtree(previous, ignore_errors=True)
    shutil.rmtree(run_dir / PARTIAL_DIR, ignore_errors=True)
    return current if current.is_dir() else None


def loss_table(curve: list[Point]) -> str:
    """The curve as CSV: a header, and one line a point."""
    names = list(Point.model_fields)
    lines = [",".join(names)]
    for point in curve:
        values: Mapping[str, Any] = point.model_dump()
        lines.append(
            ",".join("" if values[name] is None else json.dumps(values[name]) for name in names)
        )
    return "\n".join(lines) + "\n"
