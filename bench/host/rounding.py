"""What storing weights in fewer bits costs: how far the logits are, from either weights' own."""

from __future__ import annotations

from collections.abc import Iterable

from bench.record import Parity, Result


def lines(rows: Iterable[Result]) -> list[str]:
    """A sentence for each backend whose weights are not stored in its row's dtype."""
    said = []
    for row in rows:
        parity = row.parity
        if row.weight_dtype is None or parity is None or parity.of_stored is None:
            continue
        said.append(
            f"{row.backend} stores its weights in {row.weight_dtype}: logits off by "
            f"{_error(parity)} of the largest against {row.dtype} weights, by "
            f"{_error(parity.of_stored)} against those that it stores"
        )
    return said


def _error(parity: Parity) -> str:
    error = "no finite share" if parity.max_rel_err is None else f"{parity.max_rel_err:.1e}"
    return error if parity.tolerance is None else f"{error} (allowed: {parity.tolerance:.1e})"


def role(row: Result) -> str:
    """What marks a row that is neither before nor after nor a peer: the type of its weights."""
    return row.weight_dtype or ""
