"""Checkpoints as transformers writes them, of random weights, for the tests to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from bench.checkpoint import CONFIG, WEIGHTS

# Geometries that no kernel is tuned for: (layers, heads, width, block size, vocabulary).
ODD = [(1, 1, 3, 2, 5), (2, 3, 15, 9, 101), (3, 5, 35, 17, 258), (1, 7, 21, 33, 50)]
SMALL = (2, 3, 15, 9, 101)

Tensors = dict[str, torch.Tensor]
Model = TypeVar("Model", GPT2LMHeadModel, BertForMaskedLM)


def gpt2(n_layer: int, n_head: int, n_embd: int, n_positions: int, vocab: int) -> GPT2LMHeadModel:
    """transformers' GPT-2 with weights in which every tensor matters."""
    config = GPT2Config(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        n_positions=n_positions,
        vocab_size=vocab,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _random(GPT2LMHeadModel(config))


def bert(n_layer: int, n_head: int, n_embd: int, block: int, vocab: int) -> BertForMaskedLM:
    """transformers' BERT for masked language modelling, as ``gpt2``."""
    config = BertConfig(
        num_hidden_layers=n_layer,
        num_attention_heads=n_head,
        hidden_size=n_embd,
        intermediate_size=4 * n_embd,
        max_position_embeddings=block,
        vocab_size=vocab,
    )
    return _random(BertForMaskedLM(config))


def _random(model: Model) -> Model:
    """Normal weights, wide enough that no logit is near another, biases and norms included."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    model.train(False)
    return model


def tokens(model: PreTrainedModel, rows: int = 3) -> torch.Tensor:
    """Random token indices (rows, block size)."""
    config = model.config
    block = getattr(config, "n_positions", None) or config.max_position_embeddings
    generator = torch.Generator().manual_seed(3)
    return torch.randint(config.vocab_size, (rows, block), generator=generator)


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """transformers' logits (B, T, V)."""
    with torch.no_grad():
        out: torch.Tensor = model(ids).logits
    return out


def saved(model: Any, directory: Path, **how: Any) -> Path:
    """What transformers writes of it."""
    model.save_pretrained(directory, **how)
    return directory


def edit_config(directory: Path, **changed: Any) -> None:
    """Change keys of config.json; None takes a key out."""
    path = directory / CONFIG
    raw = json.loads(path.read_text())
    raw.update(changed)
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def edit_tensors(directory: Path, edit: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> None:
    """Write model.safetensors anew with other tensors."""
    path = directory / WEIGHTS
    changed = edit(safetensors.torch.load_file(path))
    content = {name: tensor.contiguous() for name, tensor in changed.items()}
    safetensors.torch.save_file(content, path, metadata={"format": "pt"})
