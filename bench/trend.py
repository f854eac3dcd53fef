"""Does a series of times go anywhere? Rank statistics, which a few outliers cannot bend.

Shared by both sides: the job asks it whether warm-up is over, the host whether a run drifted.
Plain standard library.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trend:
    """How surely and how far a series rises (positive) or falls (negative).

    ``z`` is the Mann-Kendall score, standard normal where there is no trend; ``change`` is what
    the whole series gained from its first value to its last, as a share of its median, by the
    median slope over all pairs (Theil and Sen).
    """

    z: float
    change: float


def of(values: Sequence[float]) -> Trend:
    """The trend of ``values`` in their order; of fewer than three there is none to tell."""
    n = len(values)
    middle = statistics.median(values) if values else 0.0
    if n < 3 or middle == 0:
        return Trend(0.0, 0.0)
    pairs = [(i, j) for j in range(n) for i in range(j)]
    score = sum(_sign(values[j] - values[i]) for i, j in pairs)
    # A tie takes a pair out of the score and its share out of the variance.
    ties = sum(t * (t - 1) * (2 * t + 5) for t in _ties(values))
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    # The score moves in steps of two; half a step is the continuity correction.
    z = (score - _sign(score)) / math.sqrt(variance) if variance > 0 else 0.0
    slope = statistics.median((values[j] - values[i]) / (j - i) for i, j in pairs)
    return Trend(z, slope * (n - 1) / middle)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _ties(values: Sequence[float]) -> list[int]:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [count for count in counts.values() if count > 1]
