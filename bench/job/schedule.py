"""The learning rate by step: up in a line, down as a cosine, then level."""

from __future__ import annotations

import math

from bench.training import Hyperparameters


def learning_rate(step: int, wanted: Hyperparameters) -> float:
    """The rate of the update that follows ``step`` updates.

    It reaches ``learning_rate`` when the warm-up is over and ``min_lr`` at ``decay_steps``.
    """
    if step < wanted.warmup:
        return wanted.learning_rate * (step + 1) / (wanted.warmup + 1)
    if step >= wanted.decay_steps:
        return wanted.min_lr
    gone = (step - wanted.warmup) / (wanted.decay_steps - wanted.warmup)  # from 0 to 1
    left = (1 + math.cos(math.pi * gone)) / 2  # from 1 to 0
    return wanted.min_lr + left * (wanted.learning_rate - wanted.min_lr)
