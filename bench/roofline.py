"""What a machine can do at best and what a call needs at least, as record.json keeps it.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52 (2009).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Peak(_Record):
    """The machine's best rates, measured in the run itself, on the run's device and threads.

    ``gemm_gflops`` is 1e9 floating-point operations a second of the library's largest matrix
    product (``gemm``: what and how), ``read_gb_s`` 1e9 bytes a second read from memory past the
    caches (``read``: what and how).
    """

    gemm_gflops: Rate
    gemm: str
    read_gb_s: Rate
    read: str


class Roofline(_Record):
    """One call of a model against the peak. A multiply-add is two operations.

    ``flops`` and ``bytes_moved`` are counted from the model's geometry, not measured: the
    operations of its products, and the bytes that have to cross from memory at least (weights,
    the KV cache, logits). The fractions are of ``Peak``'s rates; ``bound`` is the one of the two
    that the roofline says limits the call.
    """

    flops: Amount
    bytes_moved: Amount
    gflops: Amount
    gb_s: Amount
    gemm_fraction: Amount
    read_fraction: Amount
    bound: Annotated[str, Field(pattern="^(compute|memory)$")]


class Energy(_Record):
    """What the timed calls of one backend used, in joules, by domain (``package-0``, ``gpu-0``).

    The whole machine's: whatever else ran is in it.
    """

    by_domain_j: dict[str, Amount]
    calls: Annotated[int, Field(ge=1)]
    per_token_j: Amount
