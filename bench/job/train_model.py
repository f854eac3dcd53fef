"""The GPT as it is trained: dropout, nanoGPT's initialisation, AdamW's groups, the loss.

``Trainable`` has the names and shapes of ``bench.job.gpt.GPT``, so that weights go either way.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn as nn
import torch.nn.functional as F

from bench.catalog import GPTConfig
from bench.job.gpt import GPT, Block, CausalSelfAttention
from bench.training import Hyperparameters


class _Dropped(nn.Linear):
    """A projection back into the residual stream, with dropout behind it."""

    def __init__(self, like: nn.Linear, dropout: float) -> None:
        super().__init__(like.in_features, like.out_features)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(x), self.dropout, self.training)


class _Attention(CausalSelfAttention):
    """GPT's attention, with dropout on the attention weights."""

    def __init__(self, config: GPTConfig, dropout: float) -> None:
        super().__init__(config)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)  # each (B, H, T, D)
        dropped = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        return self.merge(y)  # (B, T, C)


class Trainable(GPT):
    """A GPT that drops at the four places where GPT-2 does, while it is in training mode.

    They are the embeddings, the attention weights, and the ends of both halves of a block.
    """

    def __init__(self, config: GPTConfig, dropout: float) -> None:
        super().__init__(config)
        self.dropout = dropout
        for block in self.h:
            assert isinstance(block, Block)
            attention = _Attention(config, dropout)
            attention.c_proj = _Dropped(attention.c_proj, dropout)
            block.attn = attention
            block.mlp.c_proj = _Dropped(block.mlp.c_proj, dropout)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().embed(tokens), self.dropout, self.training)


def initialised(config: GPTConfig, dropout: float, seed: int) -> Trainable:
    """A GPT to train from scratch; its weights depend on geometry and ``seed`` alone.

    As nanoGPT does: normal with a deviation of 0.02, the projections back into the residual
    stream divided by sqrt(2 * n_layer), biases 0, norms 1.
    """
    model = Trainable(config, dropout)
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / (2 * config.n_layer) ** 0.5
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() >= 2:
                std = residual_std if name.endswith("c_proj.weight") else 0.02
                tensor.normal_(0.0, std, generator=generator)
            else:
                tensor.fill_(1.0 if name.endswith("weight") else 0.0)  # a norm, or a bias
    return model


def trainable(model: GPT, dropout: float) -> Trainable:
    """The weights of ``model``, to train on."""
    copy = Trainable(model.config, dropout)
    copy.load_state_dict(model.state_dict())
    return copy


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy, in nats a token, of logits (B, T, V) at targets (B, T)."""
    B, T, V = logits.shape
    return F.cross_entropy(logits.view(B * T, V), targets.reshape(B * T))


def optimizer_for(model: nn.Module, wanted: Hyperparameters) -> torch.optim.AdamW:
    """AdamW in two groups: matrices and embeddings decay, biases and norms do not."""
    decayed, free = decay_groups(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": wanted.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=wanted.learning_rate,
        betas=(wanted.beta1, wanted.beta2),
    )


def decay_groups(
    parameters: Iterable[nn.Parameter],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that multiply (two dimensions or more), and those that shift or scale."""
    every = list(parameters)
    return [one for one in every if one.dim() >= 2], [one for one in every if one.dim() < 2]
