"""One run in the index: what a listing shows of it and what it is filtered by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from bench.catalog import AFTER, BEFORE
from bench.host.history import identity
from bench.host.history.wording import plain
from bench.record import RunRecord

_LONGEST = 300  # characters of one text; a record may hold a novel


class Measured(NamedTuple):
    """One backend of a run; ``median_ms`` is None where it has no latency."""

    backend: str
    status: str
    median_ms: float | None = None
    tokens_per_s: float | None = None
    unstable: bool = False


@dataclass(frozen=True)
class Entry:
    """One published run. Texts are without control characters and of bounded length.

    ``run`` is the name of its directory, by which it is found. ``figure`` is what came of a run
    that measures no latency, in words.
    """

    run: str
    kind: str
    status: str
    reason: str | None
    model: str
    mode: str
    device: str
    dtype: str
    batch_size: str  # text, as any whole number is valid in a record and SQLite has bounds
    seq_len: str
    engine: str
    image: str | None
    image_id: str | None
    image_digest: str | None
    build_type: str | None
    machine: str | None
    tvm: str | None
    git_commit: str | None
    git_dirty: bool | None
    figure: str | None
    measured: tuple[Measured, ...] = ()

    @property
    def before_ms(self) -> float | None:
        return self.median_of(BEFORE)

    @property
    def after_ms(self) -> float | None:
        return self.median_of(AFTER)

    @property
    def outcome(self) -> str | None:
        """The speed-up, or the figure of a run that is about something else."""
        if self.before_ms and self.after_ms:
            return f"{self.before_ms / self.after_ms:.1f}x"
        return self.figure

    def median_of(self, backend: str) -> float | None:
        """The latency of one backend in milliseconds."""
        return next((one.median_ms for one in self.measured if one.backend == backend), None)

    def as_data(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "measured": [one._asdict() for one in self.measured]}


def of(run: str, record: RunRecord) -> Entry:
    """What is kept of ``record``, which lies in the directory ``run``."""
    spec, where, image = record.spec, record.environment, record.image
    return Entry(
        run=_short(run),
        kind=_short(spec.kind),
        status=record.status,
        reason=_maybe(record.reason),
        model=_short(spec.model),
        mode=_short(spec.mode),
        device=_short(spec.device),
        dtype=_short(spec.dtype),
        batch_size=_short(str(spec.batch_size)),
        seq_len=_short(str(spec.seq_len)),
        engine=_short(record.engine),
        image=_maybe(image.tag if image else None),
        image_id=_maybe(image.id if image else None),
        image_digest=_maybe(image.digest if image else None),
        build_type=_maybe(identity.build_type(record)),
        machine=_maybe(identity.machine(record)),
        tvm=_maybe(identity.tvm(record)),
        git_commit=_maybe(where.git_commit if where else None),
        git_dirty=where.git_dirty if where else None,
        figure=_maybe(_figure(record)),
        measured=tuple(_measured(record)),
    )


def _measured(record: RunRecord) -> list[Measured]:
    found = [
        Measured(
            backend=_short(result.backend),
            status=result.status,
            median_ms=result.latency_ms.median if result.latency_ms else None,
            tokens_per_s=result.tokens_per_s,
            unstable=bool(result.unstable),
        )
        for result in record.results
    ]
    found += [Measured(_short(done.backend), "ok") for done in record.evaluations]
    if record.generation:
        found.append(Measured(_short(record.generation.backend), "ok"))
    return found


def _figure(record: RunRecord) -> str | None:
    if record.training and record.training.best_val_loss is not None:
        return f"loss {record.training.best_val_loss:.4f}"
    if record.tuning and record.tuning.series and record.tuning.series[-1].best_ms:
        return f"sum over kernels {record.tuning.series[-1].best_ms:.3f} ms"
    if record.evaluations:
        return f"perplexity {record.evaluations[0].perplexity:.4f}"
    if record.generation and record.generation.token_ms:
        return f"{1e3 / record.generation.token_ms:.0f} tokens/s"
    return None


def _maybe(text: str | None) -> str | None:
    return None if text is None else _short(text)


def _short(text: str) -> str:
    shown = plain(text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
