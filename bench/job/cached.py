"""A GPT as two functions that share its weights: the prompt in one call, then a token a call.

What attention needs of earlier positions is kept in a KV cache of constant shape, so that both
functions can be compiled ahead. A cache holds for every layer the keys (B, H, D, S), transposed
so that a query times the cache reads it in order, and the values (B, H, S, D); S is its
capacity in positions. Neither function writes it: they give the new keys and values, and the
caller puts them in their place (``bench.job.decoder``). A function that gave the whole cache back
would copy it at every token.

Letters as in ``bench.job.gpt``; P positions of a prompt, L layers.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from bench.catalog import GPTConfig
from bench.job.gpt import GPT, Block
from bench.job.repeated import Repeated


class PrefillLayer(Repeated):
    """A block of the model over the whole prompt."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The residual stream (B, P, C) to the next one, the keys (B, H, D, P), and the values
        (B, H, P, D)."""
        block = self.block
        q, k, v = block.attn.heads(block.ln_1(x))  # each (B, H, P, D)
        x = x + block.attn.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + block.mlp(block.ln_2(x))  # (B, P, C)
        return x, k.transpose(2, 3).contiguous(), v.contiguous()


class Prefill(nn.Module):
    """The whole prompt at once."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.wte, self.wpe = model.wte, model.wpe
        self.layers = nn.ModuleList(map(PrefillLayer, model.blocks()))
        self.ln_f = model.ln_f

    def forward(self, tokens: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens (B, P) and the position of the last one that counts (1,), both int64.

        Tokens after ``last`` are padding: no earlier position sees them.

        Returns:
            The logits at ``last`` (B, V), then L keys (B, H, D, P), then L values (B, H, P, D).
        """
        keys, values = [], []
        position = torch.arange(tokens.shape[1], device=tokens.device)  # (P,)
        x = self.wte(tokens) + self.wpe(position)  # (B, P, C)
        for layer in self.layers:
            x, k, v = layer(x)
            keys.append(k)
            values.append(v)
        x = x.index_select(1, last)  # (B, 1, C)
        return _logits(self, x), *keys, *values


class StepLayer(Repeated):
    """A block of the model at one more position."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, x: torch.Tensor, past: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One position of the residual stream (B, 1, C), and its caches.

        Args:
            x: the residual stream (B, 1, C).
            past: which places of the caches are positions before this one, (S,), bool.
            keys: those of the positions so far, (B, H, D, S).
            values: the same, (B, H, S, D).

        Returns:
            The next residual stream (B, 1, C), the new key (B, H, D, 1), the new value
            (B, H, 1, D).
        """
        block, capacity = self.block, keys.shape[-1]
        q, k, v = block.attn.heads(block.ln_1(x))  # each (B, H, 1, D)
        q = q * q.shape[-1] ** -0.5
        # The cache and the token itself apart: joining them would copy the cache.
        scores = q @ keys  # (B, H, 1, S)
        scores = scores.masked_fill(~past, float("-inf"))
        own = (q * k).sum(dim=-1, keepdim=True)  # (B, H, 1, 1)
        weights = torch.cat([scores, own], dim=-1).softmax(dim=-1)  # (B, H, 1, S + 1)
        y = weights[..., :capacity] @ values  # (B, H, 1, D)
        x = x + block.attn.merge(y + weights[..., capacity:] * v)
        x = x + block.mlp(block.ln_2(x))  # (B, 1, C)
        return x, k.transpose(2, 3), v


class Step(nn.Module):
    """One more token, with the positions before it in the cache."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.wte, self.wpe = model.wte, model.wpe
        self.layers = nn.ModuleList(map(StepLayer, model.blocks()))
        self.ln_f = model.ln_f

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, *cache: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The token (B, 1) at ``position`` (1,), both int64; L caches of keys, L of values.

        Returns:
            The logits (B, V), then L new keys (B, H, D, 1), then L new values (B, H, 1, D).
        """
        count = len(self.layers)
        keys, values = [], []
        past = torch.arange(cache[0].shape[-1], device=token.device) < position  # (S,)
        x = self.wte(token) + self.wpe(position)  # (B, 1, C)
        for layer, *own in zip(self.layers, cache[:count], cache[count:], strict=True):
            x, k, v = layer(x, past, *own)
            keys.append(k)
            values.append(v)
        return _logits(self, x), *keys, *values


def empty_cache(
    config: GPTConfig, batch_size: int, capacity: int, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """L caches of keys (B, H, D, S), then L of values (B, H, S, D), all zero.

    Zeros and not whatever memory held: what the mask leaves out is still multiplied with 0.
    """
    heads, width = config.n_head, config.n_embd // config.n_head
    keys = [
        torch.zeros(batch_size, heads, width, capacity, dtype=dtype) for _ in range(config.n_layer)
    ]
    values = [
        torch.zeros(batch_size, heads, capacity, width, dtype=dtype) for _ in range(config.n_layer)
    ]
    return keys + values


def _logits(model: Prefill | Step, x: torch.Tensor) -> torch.Tensor:
    """The residual stream of one position (B, 1, C) to logits (B, V)."""
    return F.linear(model.ln_f(x), model.wte.weight).squeeze(1)
