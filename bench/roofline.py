"""What a machine can do at best and what a call needs at least, as record.json keeps it.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52 (2009).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from bench.counts import Work

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

    def or_better(self, more: Peak | None) -> Peak:
        """The better of each rate: whatever else ran made the other one too low."""
        if more is None:
            return self
        product = max(self, more, key=lambda one: one.gemm_gflops)
        stream = max(self, more, key=lambda one: one.read_gb_s)
        return Peak(
            gemm_gflops=product.gemm_gflops,
            gemm=product.gemm,
            read_gb_s=stream.read_gb_s,
            read=stream.read,
        )


class Roofline(_Record):
    """One call of a model against the peak. A multiply-add is two operations.

    ``flops`` and ``bytes_moved`` are counted from the model's geometry, not measured: the
    operations of its products, and the bytes that have to cross from memory at least (weights,
    the KV cache, logits). The fractions are of ``Peak``'s rates; ``bound`` is the one of the two
    that the roofline says limits the call. A fraction over 1 is no error: bytes that stay in the
    caches come faster than memory gives them, and a peak may have been measured at a bad moment.
    """

    flops: Amount
    bytes_moved: Amount
    gflops: Amount
    gb_s: Amount
    gemm_fraction: Amount
    read_fraction: Amount
    bound: Annotated[str, Field(pattern="^(compute|memory)$")]

    @classmethod
    def of(cls, work: Work, call_s: float, peak: Peak) -> Roofline:
        """The call that does ``work`` in ``call_s`` seconds, which is above 0."""
        gflops, gb_s = work.flops / call_s / 1e9, work.bytes_moved / call_s / 1e9
        compute_s = work.flops / (peak.gemm_gflops * 1e9)
        memory_s = work.bytes_moved / (peak.read_gb_s * 1e9)
        return cls(
            flops=work.flops,
            bytes_moved=work.bytes_moved,
            gflops=gflops,
            gb_s=gb_s,
            gemm_fraction=gflops / peak.gemm_gflops,
            read_fraction=gb_s / peak.read_gb_s,
            bound="compute" if compute_s >= memory_s else "memory",
        )


class Energy(_Record):
    """What the timed calls of one backend used, in joules, by domain (``package-0``, ``gpu-0``).

    The whole machine's: whatever else ran, and what an idle part of it takes, is in it. Summed
    over the processes that could tell; ``calls`` are theirs. ``per_token_j`` is all domains but
    one that holds the others (``psys``), over the tokens of those calls.
    """

    by_domain_j: dict[str, Amount]
    calls: Annotated[int, Field(ge=1)]
    per_token_j: Amount

    @classmethod
    def of(cls, by_domain_j: dict[str, float], calls: int, tokens_a_call: int) -> Energy:
        """``by_domain_j`` is not empty: who cannot tell has no energy."""
        parts = [used for name, used in by_domain_j.items() if name != "psys"]
        whole = sum(parts or by_domain_j.values())
        return cls(
            by_domain_j=by_domain_j, calls=calls, per_token_j=whole / (calls * tokens_a_call)
        )

    def plus(self, more: Energy | None) -> Energy:
        """This, and what another process of the same backend used.

        A process that cannot tell, or not of the same domains, is left out, calls and all.
        """
        if more is None or more.by_domain_j.keys() != self.by_domain_j.keys():
            return self
        calls = self.calls + more.calls
        spent = self.per_token_j * self.calls + more.per_token_j * more.calls
        return Energy(
            by_domain_j={
                name: used + more.by_domain_j[name] for name, used in self.by_domain_j.items()
            },
            calls=calls,
            per_token_j=spent / calls,
        )
