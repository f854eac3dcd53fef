"""A BERT for masked language modelling in one file, to be read beside ``gpt.py``.

Shapes stand beside the tensors: B batch, T positions, C width (``n_embd``), H heads,
D = C / H width of a head, V vocabulary.

What differs from a GPT: every position sees every other, before it and after it; a norm comes
after each sum instead of before each layer; tokens have a type (first or second text); and the
head has a layer of its own before the tied embedding.

Source of the architecture: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers
for Language Understanding". The parameters are those of a published checkpoint, with names as
in ``gpt.py``; only query, key and value are one matrix here, their rows in this order.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from bench.catalog import BertConfig
from bench.job.repeated import Repeated

__all__ = ["Bert", "BertConfig", "build", "parameter_count"]

NORM_EPS = 1e-12  # as published; GPT-2 has 1e-5


class SelfAttention(nn.Module):
    """Multi-head attention in which every position sees all positions."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key, value in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # each (B, T, C)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v)  # (B, H, T, D); no mask
        y = y.transpose(1, 2).reshape(B, T, C)
        out: torch.Tensor = self.c_proj(y)  # (B, T, C)
        return out


class MLP(nn.Module):
    """Two linear layers with the exact GELU, x times the normal distribution's Phi(x), between."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.c_fc(x))  # (B, T, 4C)
        out: torch.Tensor = self.c_proj(h)  # (B, T, C)
        return out


class Block(Repeated):
    """One residual block, normed after each sum: norm(x + attention(x)), norm(x + mlp(x))."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(config)
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=NORM_EPS)
        self.mlp = MLP(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.ln_1(x + self.attn(x))  # (B, T, C)
        x = self.ln_2(x + self.mlp(x))  # (B, T, C)
        return x


class Head(nn.Module):
    """What stands between the last block and the decoder: a layer, GELU and a norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_embd)
        self.ln = nn.LayerNorm(config.n_embd, eps=NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.ln(F.gelu(self.c_fc(x)))  # (B, T, C)
        return out


class Bert(nn.Module):
    """Three embeddings and a norm, the blocks, the head, and a decoder tied to the embedding."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.wtt = nn.Embedding(config.type_vocab_size, config.n_embd)
        self.ln_e = nn.LayerNorm(config.n_embd, eps=NORM_EPS)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = Head(config)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))  # the decoder's

    def embed(self, tokens: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
        """Token indices (B, T) and their types (B, T) to the first residual stream (B, T, C)."""
        T = tokens.shape[1]
        position = torch.arange(T, device=tokens.device)  # (T,)
        # Without types all are 0: one row for every position, and one input less to a compiler.
        kind = self.wtt.weight[0] if types is None else self.wtt(types)  # (C,) or (B, T, C)
        out: torch.Tensor = self.ln_e(self.wte(tokens) + kind + self.wpe(position))  # (B, T, C)
        return out

    def forward(self, tokens: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, T, V): at every position, which token stands there.

        Args:
            tokens: token indices (B, T), int64.
            types: 0 where a token belongs to the first text, 1 for the second: (B, T), int64.
                By default all are 0.
        """
        x = self.embed(tokens, types)  # (B, T, C)
        for block in self.h:
            x = block(x)  # (B, T, C)
        x = self.head(x)  # (B, T, C)
        return F.linear(x, self.wte.weight, self.bias)  # (B, T, V)


def build(config: BertConfig, seed: int, dtype: torch.dtype = torch.float32) -> Bert:
    """A BERT in evaluation mode whose weights depend on ``seed`` and the geometry alone.

    Normal with a deviation of 0.02, as published. Biases and norms are drawn too, not left at
    0 and 1, so that a backend that drops one fails the parity gate (the bias of the keys alone
    cancels out: softmax does not see it).
    """
    with torch.device("meta"):
        model = Bert(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            mean = 1.0 if ".ln" in f".{name}" and name.endswith("weight") else 0.0
            tensor.normal_(mean, 0.02, generator=generator)
    return model.to(dtype).eval().requires_grad_(False)


def parameter_count(config: BertConfig) -> int:
    """How many weights the geometry has; the tied decoder counts once."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in Bert(config).parameters())
