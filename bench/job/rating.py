"""Rows held against the machine's peak: what a call needs, and how near the backend comes to it.

Arithmetic on what was measured, in the job's own light process: it imports no torch.
"""

from __future__ import annotations

from bench import counts, limits
from bench.record import Environment, JobSpec, Result
from bench.roofline import Peak, Roofline

# A backend may beat a best of a few dozen by luck; what is more says that the peak is none.
_OVER = 1.05


def with_peak(where: Environment, peak: Peak | None) -> Environment:
    """The environment with the better of its peak and ``peak``."""
    best = where.peak.or_better(peak) if where.peak else peak
    return where.model_copy(update={"peak": best})


def rated(row: Result, spec: JobSpec, peak: Peak | None) -> Result:
    """``row`` with its roofline; without one where the row has no latency or the job no peak."""
    took_ms = row.latency_ms.median if row.latency_ms else 0.0
    found = None
    if peak is not None and took_ms > 0:
        asked = (spec.geometry, spec.mode, spec.batch_size, spec.seq_len, spec.dtype)
        work = counts.of_call(*asked, row.weight_dtype)
        found = Roofline.of(work, took_ms / 1e3, peak)
    return row.model_copy(update={"roofline": found})


def doubted(row: Result, cache_bytes: int | None = None) -> Result:
    """``row`` with the reason, if any, for which its fractions are not to be quoted.

    More than the peak of reading is no reason where all of it may stay in the caches
    (``cache_bytes``, by default this machine's).
    """
    found = row.roofline
    if found is None:
        return row
    caches = limits.cache_bytes() if cache_bytes is None else cache_bytes
    over = []
    if found.gemm_fraction > _OVER:
        over.append(f"{found.gemm_fraction:.0%} of the GEMM peak")
    if found.read_fraction > _OVER and found.bytes_moved > 2 * caches:
        over.append(f"{found.read_fraction:.0%} of the read peak")
    if not over:
        return row
    reason = (
        f"roofline: the calls reached {' and '.join(over)}, which was measured at a slower moment; "
        "run it again on a quieter machine"
    )
    return row.model_copy(update={"unstable": [*row.unstable, reason]})
