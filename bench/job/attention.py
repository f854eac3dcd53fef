"""Causal attention three times, each the same sum: for docs/concepts.md, and held equal by tests.

Shapes: B batch, H heads, T positions, D width of a head, C width. Position t takes a weighted
mean of the values at positions 0 to t; the forms differ in where the weights come from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def running_mean(x: torch.Tensor) -> torch.Tensor:
    """Each position the mean of itself and all before it, by a loop: (B, T, C) to (B, T, C)."""
    return torch.stack([x[:, : t + 1].mean(dim=1) for t in range(x.shape[1])], dim=1)


def averaging_weights(length: int) -> torch.Tensor:
    """Rows that sum to 1, zero above the diagonal; every visible position weighs alike: (T, T)."""
    below = torch.tril(torch.ones(length, length))
    return below / below.sum(dim=1, keepdim=True)


def lower_triangular(x: torch.Tensor) -> torch.Tensor:
    """The running mean as one product with a lower-triangular matrix: (B, T, C) to (B, T, C)."""
    return averaging_weights(x.shape[1]).to(x) @ x


def masked_softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention written out: each of q, k and v (B, H, T, D), and what comes of them too.

    The scores of later positions are minus infinity, which softmax makes a weight of 0. Where
    all scores are alike the weights are those of ``averaging_weights``.
    """
    T, D = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / D**0.5  # (B, H, T, T)
    visible = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)  # (B, H, T, T)
    out: torch.Tensor = weights @ v  # (B, H, T, D)
    return out


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same by PyTorch's one kernel, which never holds the (T, T) weights as a whole."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)
