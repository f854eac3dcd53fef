"""Decoding with a KV cache, for whichever backend runs the two functions of ``bench.job.cached``.

The cache is the backend's own memory, seen through PyTorch: what a call gives is written to its
place there, so that nothing is copied but what is new.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.catalog import GPTConfig
from bench.job.backends.base import Program, Programs, Ready
from bench.job.cached import Prefill, Step, empty_cache
from bench.job.gpt import GPT

PREFILL, STEP = "prefill", "step"


def programs(model: GPT, batch_size: int, prompt: int, capacity: int) -> Programs:
    """The two functions for prompts of ``prompt`` positions and a cache of ``capacity``."""
    tokens = torch.zeros(batch_size, prompt, dtype=torch.int64)
    one = torch.zeros(1, dtype=torch.int64)
    cache = empty_cache(model.config, batch_size, capacity)
    return {
        PREFILL: Program(Prefill(model), (tokens, one)),
        STEP: Program(Step(model), (tokens[:, :1], one, *cache)),
    }


class Decoder:
    """Sequences that grow by a token a step. ``position`` is how many tokens they have."""

    def __init__(
        self, ready: Ready, config: GPTConfig, batch_size: int, capacity: int, dtype: torch.dtype
    ) -> None:
        self._ready = ready
        self._layers = config.n_layer
        self._cache = [
            ready.stage(part) for part in empty_cache(config, batch_size, capacity, dtype)
        ]
        self._views = [ready.view(part) for part in self._cache]
        self.capacity = capacity
        self.position = 0

    @torch.inference_mode()
    def prefill(self, tokens: torch.Tensor, length: int | None = None) -> Any:
        """Start with ``tokens`` (B, P), of which ``length`` count and the rest is padding.

        Returns:
            The logits of the last token that counts (B, V), on the device.
        """
        self.position = tokens.shape[1] if length is None else length
        last = torch.tensor([self.position - 1])
        stage = self._ready.stage
        logits, *new = self._ready.run(PREFILL, stage(tokens), stage(last))
        for part, view in zip(new, self._views, strict=True):
            fresh = self._ready.view(part)
            # The positions are the last axis of the keys and the one before it of the values.
            rows, columns = fresh.shape[-2:]
            view[..., :rows, :columns].copy_(fresh[..., : view.shape[-2], : view.shape[-1]])
        return logits

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> Any:
        """Add one token to each sequence: ``tokens`` (B, 1).

        Returns:
            The logits (B, V) of what comes next, on the device.
        """
        at = self.position
        stage = self._ready.stage
        logits, *new = self._ready.run(STEP, stage(tokens), stage(torch.tensor([at])), *self._cache)
        for index, part in enumerate(new):
            fresh = self._ready.view(part)
            if index < self._layers:
                self._views[index][..., at : at + 1].copy_(fresh)
            else:
                self._views[index][..., at : at + 1, :].copy_(fresh)
        self.position = at + 1
        return logits

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on. What the cache holds of them is not read."""
        self.position = position
