"""The raw samples of a run, one series for each backend and metric, with their rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.host import stats
from bench.record import Latency, Result, RunRecord

Metric = Literal["latency", "ttft"]


@dataclass(frozen=True)
class Series:
    """Milliseconds for one call (``latency``), or to the first token (``ttft``) of a decode.

    ``process`` and ``order`` are parallel to ``samples``: which round took it, and the place of
    that round in the run. An old record has neither: it was all one round.
    """

    result: Result
    metric: Metric
    samples: list[float]
    process: list[int] | None
    order: list[int] | None

    @property
    def backend(self) -> str:
        return self.result.backend

    @property
    def name(self) -> str:
        """The backend, and the metric where it is not the latency."""
        return self.backend if self.metric == "latency" else f"{self.backend} {self.metric}"

    @property
    def rounds(self) -> list[float]:
        """The median of each round, in milliseconds."""
        return stats.round_medians(self.samples, self.process)

    @property
    def tokens_per_call(self) -> int:
        """How many tokens one call is credited with: every position, in decoding the new ones."""
        result = self.result
        whole_prompt = result.mode != "decode" or self.metric == "ttft"
        return result.batch_size * (result.seq_len if whole_prompt else 1)


def of(record: RunRecord) -> Iterator[Series]:
    """Every series of ``record``, in its order; a row without samples has none."""
    for result in record.results:
        if result.latency_ms:
            yield _series(result, "latency", result.latency_ms)
        if result.ttft_ms:
            yield _series(result, "ttft", result.ttft_ms)


def _series(result: Result, metric: Metric, latency: Latency) -> Series:
    return Series(result, metric, latency.samples, latency.process, latency.order)
