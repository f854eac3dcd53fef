"""Where a call's time goes, operator by operator, as record.json keeps it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Operator(_Record):
    """One kernel or operator. ``calls`` and ``total_ms`` are of one call of the model.

    ``shapes`` tells operators of one name apart, where the profiler knows: as "64x768, 768x3072".
    """

    name: str
    calls: Annotated[float, Field(ge=0)]
    total_ms: Milliseconds
    shapes: str | None = None


class OperatorProfile(_Record):
    """What a profiler saw of ``calls`` calls of the model, after the timed ones.

    ``call_ms`` is the median time of one profiled call, which is longer than a timed one;
    ``operators`` are in descending order of their time, and what they leave of ``call_ms`` was
    spent between them.
    """

    profiler: str
    calls: Annotated[int, Field(ge=1)]
    call_ms: Milliseconds
    operators: list[Operator]
