"""Several fresh processes a backend, interleaved: A B C A B C, so that drift hits all alike."""

from __future__ import annotations

from bench.catalog import BEFORE
from bench.latency import Latency
from bench.record import JobSpec, Result

# The unoptimised *before* takes minutes a process; three show a factor of hundreds.
_OF_BEFORE = 3


def schedule(spec: JobSpec) -> list[tuple[int, str]]:
    """(round, backend) of every process, in the order that they run."""
    return [
        (number, name)
        for number in range(spec.rounds)
        for name in spec.backends
        if name != BEFORE or number < _OF_BEFORE
    ]


def numbered(row: Result, number: int, place: int) -> Result:
    """``row`` of the process ``number`` of its backend, which ran at ``place`` of the schedule."""
    return row.model_copy(
        update={
            "latency_ms": _numbered(row.latency_ms, number, place),
            "ttft_ms": _numbered(row.ttft_ms, number, place),
        }
    )


def joined(row: Result, more: Result) -> Result:
    """``row`` with what one more process of the same backend measured.

    A process that failed fails the row: a backend that is right only sometimes is not right.
    """
    if more.status != "ok":
        reason = f"in a later round: {more.reason}"
        bare = dict.fromkeys(("latency_ms", "ttft_ms", "tokens_per_s", "energy"))
        return row.model_copy(
            update={"status": more.status, "reason": reason, "parity": more.parity, **bare}
        )
    latency = _joined(row.latency_ms, more.latency_ms)
    tokens = row.tokens_per_s
    if tokens is not None and row.latency_ms is not None and latency is not None:
        tokens *= row.latency_ms.median / latency.median
    return row.model_copy(
        update={
            "latency_ms": latency,
            "ttft_ms": _joined(row.ttft_ms, more.ttft_ms),
            "tokens_per_s": tokens,
            "peak_memory_mib": max(row.peak_memory_mib or 0.0, more.peak_memory_mib or 0.0),
            "energy": row.energy.plus(more.energy) if row.energy else more.energy,
            "warmup_calls": [*(row.warmup_calls or []), *(more.warmup_calls or [])],
            "unstable": list(dict.fromkeys([*row.unstable, *more.unstable])),
        }
    )


def _numbered(latency: Latency | None, number: int, place: int) -> Latency | None:
    return None if latency is None else latency.numbered(number, place)


def _joined(first: Latency | None, more: Latency | None) -> Latency | None:
    return first if first is None or more is None else first.joined(more)
