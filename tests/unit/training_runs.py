"""Training runs small enough for tests: a text, a spec, the job's own entry with its inputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from bench import checkpoint
from bench.catalog import input_variable
from bench.job import train
from bench.training import PRESETS, Training, TrainSpec

# Every letter has its followers, so that a model can learn it; 3,000 characters.
TEXT = "".join(f"{n * n % 97} sheep leap over {n % 7} stiles; " for n in range(100))
SMALL = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "batch_size": 4,
    "steps": 12,
    "warmup": 2,
    "decay_steps": 12,
    "eval_every": 4,
    "eval_batches": 2,
    "threads": 1,
}


def sum_of(text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(content).hexdigest()


def spec(preset: str = "char-tiny", text: str | bytes = TEXT, **changes: Any) -> TrainSpec:
    small = SMALL if preset != "bigram" else {"steps": 12, "eval_every": 4, "eval_batches": 2}
    return TrainSpec.model_validate(
        {
            **PRESETS[preset].model_dump(),
            **small,
            "preset": preset,
            "model": preset,
            "text": "a test's text",
            "text_sha256": sum_of(text),
            **changes,
        }
    )


class Jobs:
    """Runs specs as the job does, each in a directory of its own."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch, self.count = root, patch, 0

    def directory(self) -> Path:
        self.count += 1
        made = self.root / f"run-{self.count}"
        made.mkdir()
        return made

    def give(self, name: str, path: Path) -> None:
        self.patch.setenv(input_variable(name), str(path))

    def run(
        self, wanted: TrainSpec, directory: Path | None = None, text: str | bytes = TEXT
    ) -> tuple[Training, Path]:
        directory = directory or self.directory()
        file = self.root / "text.txt"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        self.give("text", file)
        return train.run(wanted, directory), directory

    def resume(self, wanted: TrainSpec, earlier: Path) -> tuple[Training, Path]:
        kept = earlier / "checkpoint"
        self.give("resume", kept)
        digest = checkpoint.digest(kept)
        return self.run(wanted.model_copy(update={"resume_sha256": digest}))


def losses(training: Training) -> list[tuple[int, float, float]]:
    return [(point.step, point.train_loss, point.val_loss) for point in training.curve]


def model_bytes(directory: Path) -> bytes:
    return (directory / "checkpoint" / "model.safetensors").read_bytes()
