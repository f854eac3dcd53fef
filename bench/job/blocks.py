"""A text as a memory-mapped array of tokens, and blocks of it to train on.

The first nine tenths are the training split, the rest the validation split. B is a batch's
size, T a block's length in tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bench.errors import UsageFault
from bench.job.text import smallest_dtype
from bench.training import TOKENS_FILE

Split = Literal["train", "val"]
Pair = tuple[torch.Tensor, torch.Tensor]

TRAIN_SHARE = 0.9


@dataclass(frozen=True)
class Blocks:
    """Both splits, each an array (tokens,), and how to take batches from them."""

    train: np.ndarray
    val: np.ndarray
    block_size: int

    @classmethod
    def of(cls, tokens: np.ndarray, block_size: int) -> Blocks:
        """Split ``tokens`` (N,) for blocks of ``block_size``.

        Raises:
            UsageFault: a split is too short for one block and the token after it.
        """
        border = int(TRAIN_SHARE * len(tokens))
        blocks = cls(tokens[:border], tokens[border:], block_size)
        for split, name in ((blocks.train, "training"), (blocks.val, "validation")):
            if len(split) <= block_size:
                raise UsageFault(
                    f"the text is too short: {len(tokens)} tokens, of which the {name} split has "
                    f"{len(split)}; a block of {block_size} needs {block_size + 1}",
                    hint="a longer text: --text FILE; or a model trained with a shorter block: "
                    "invoke train --block-size N",
                )
        return blocks

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Pair:
        """Blocks from random places: tokens (B, T) and, for each, the one after it (B, T)."""
        data = self.train if split == "train" else self.val
        starts = torch.randint(len(data) - self.block_size, (batch_size,), generator=generator)
        return _pairs(data, starts.numpy(), self.block_size)

    def whole(self, split: Split, batch_size: int) -> Iterator[Pair]:
        """Every whole block of a split once, in order: pairs of (at most B, T)."""
        data = self.train if split == "train" else self.val
        starts = np.arange(0, len(data) - self.block_size, self.block_size)
        for first in range(0, len(starts), batch_size):
            yield _pairs(data, starts[first : first + batch_size], self.block_size)


@contextlib.contextmanager
def mapped(
    tokens: np.ndarray | Sequence[int], vocab_size: int, directory: Path
) -> Iterator[np.ndarray]:
    """``tokens`` (N,) as a memory map of a file in ``directory``, which is gone afterwards.

    So that the text is held by the kernel's cache, which can let go of it, not by this process.
    """
    path = directory / TOKENS_FILE
    np.asarray(tokens, dtype=smallest_dtype(vocab_size)).tofile(path)
    try:
        yield np.memmap(path, dtype=smallest_dtype(vocab_size), mode="r")
    finally:
        path.unlink(missing_ok=True)


def generator_for(seed: int, stream: str, step: int) -> torch.Generator:
    """What draws the batches of one step: the same whatever was drawn before it."""
    return torch.Generator().manual_seed(seed_for(seed, stream, step))


def seed_for(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed of its own for each seed, stream and step."""
    digest = hashlib.sha256(f"{seed} {stream} {step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _pairs(data: np.ndarray, starts: np.ndarray, block_size: int) -> Pair:
    places = starts[:, None] + np.arange(block_size + 1)  # (B, T + 1)
    taken = torch.from_numpy(data[places].astype(np.int64))  # (B, T + 1)
    return taken[:, :-1], taken[:, 1:]
