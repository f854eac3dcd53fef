"""The baseline: the next token by the last one alone, from a table of logits.

Its checkpoint is config.json (``{"model_type": "bigram", "vocab_size": V}``) and
model.safetensors with one tensor.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.errors import UsageFault

MODEL_TYPE = "bigram"
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_TABLE = "table.weight"
_AGAIN = "it takes seconds to train another: invoke train --preset bigram"


class Bigram(nn.Module):
    """A table (V, V): row i has the logits of what follows token i."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token indices (B, T), int64, to logits (B, T, V)."""
        out: torch.Tensor = self.table(tokens)
        return out


def build(vocab_size: int, seed: int) -> Bigram:
    """A bigram that begins almost even, so that its first loss is close to log(V)."""
    model = Bigram(vocab_size)
    with torch.no_grad():
        model.table.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed))
    return model


def save(model: Bigram, directory: Path) -> None:
    """Write the checkpoint's two files into ``directory``."""
    table = model.table.weight.detach().float().cpu().contiguous()
    save_file({_TABLE: table}, directory / _WEIGHTS)
    config = {"model_type": MODEL_TYPE, "vocab_size": model.vocab_size}
    (directory / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load(directory: Path) -> Bigram:
    """The bigram that lies in ``directory``, in evaluation mode.

    Raises:
        UsageFault: it cannot be read, or config and table contradict each other.
    """
    path = directory / _WEIGHTS
    try:
        size = json.loads((directory / _CONFIG).read_bytes())["vocab_size"]
        tensors = load_file(path)
    except OSError as error:
        raise UsageFault(f"cannot read the bigram in {directory}: {error}", hint=_AGAIN) from error
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise UsageFault(f"the bigram in {directory} is damaged: {error}", hint=_AGAIN) from error
    table = tensors.get(_TABLE)
    if set(tensors) != {_TABLE} or table is None:
        raise UsageFault(
            f"{path} has the tensors {sorted(tensors)}, a bigram has {_TABLE} alone", hint=_AGAIN
        )
    if tuple(table.shape) != (size, size):
        raise UsageFault(
            f"{path}: {_TABLE} is {tuple(table.shape)}, but config.json's vocab_size of {size} "
            f"wants {(size, size)}",
            hint=_AGAIN,
        )
    model = Bigram(size)
    model.load_state_dict({_TABLE: table.float()})
    return model.eval()
