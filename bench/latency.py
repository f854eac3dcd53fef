"""How long calls took, raw and summarised, as record.json keeps it.

By the host's clock always: it is what a user waits for. Where a backend runs on a GPU, by the
device's own clock too (docs/statistics.md says what either holds).
"""

from __future__ import annotations

import math
import statistics
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Latency(BaseModel):
    """Milliseconds for one call of the whole batch. ``samples`` are raw, in the order taken.

    They are the host's: from the call to the moment at which the device is done. ``device_ms`` has
    for every sample what the device's clock saw of the same call. ``clock`` names what the times
    were taken with, and why there is no device's where there could have been one.

    Where there were several rounds, ``process`` has for every sample the backend's process that
    took it, counted from 0, and ``order`` that process's place in the whole run's schedule.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    samples: list[Milliseconds] = Field(min_length=1)
    process: list[int] | None = None
    order: list[int] | None = None
    device_ms: list[Milliseconds] | None = None
    clock: str | None = None
    median: Milliseconds
    p10: Milliseconds
    p90: Milliseconds
    min: Milliseconds

    @classmethod
    def of(
        cls,
        samples: list[float],
        process: list[int] | None = None,
        order: list[int] | None = None,
        device_ms: list[float] | None = None,
        clock: str | None = None,
    ) -> Latency:
        """Summarise raw samples. Percentiles interpolate linearly, as numpy.percentile does."""
        several = len(samples) > 1
        tenths = statistics.quantiles(samples, n=10, method="inclusive") if several else samples * 9
        return cls(
            samples=samples,
            process=process,
            order=order,
            device_ms=device_ms,
            clock=clock,
            median=statistics.median(samples),
            p10=tenths[0],
            p90=tenths[-1],
            min=min(samples),
        )

    def numbered(self, process: int, order: int) -> Latency:
        """The same, all of it taken by one process of a run of several."""
        count = len(self.samples)
        return self.model_copy(update={"process": [process] * count, "order": [order] * count})

    def joined(self, more: Latency) -> Latency:
        """This, and what one more process of the same backend took.

        The device's times stay only where both have them, for every sample has one or none has.
        """
        both = self.device_ms is not None and more.device_ms is not None
        without = next((one for one in (self, more) if one.device_ms is None), self)
        return Latency.of(
            [*self.samples, *more.samples],
            [*(self.process or []), *(more.process or [])],
            [*(self.order or []), *(more.order or [])],
            [*(self.device_ms or []), *(more.device_ms or [])] if both else None,
            without.clock,
        )

    @model_validator(mode="after")
    def _summary_belongs_to_samples(self) -> Latency:
        # A summary edited by hand, or samples cut short, must not pass for a measurement.
        if not math.isclose(self.median, statistics.median(self.samples), rel_tol=1e-9):
            raise ValueError("median is not the median of samples")
        if self.min != min(self.samples):
            raise ValueError("min is not the least of samples")
        for beside in (self.process, self.order, self.device_ms):
            if beside is not None and len(beside) != len(self.samples):
                raise ValueError("process, order and device_ms do not run parallel to samples")
        return self
