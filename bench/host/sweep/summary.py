"""A sweep's outcome: one line a cell, and the same as data."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.catalog import AFTER, BEFORE, PEERS
from bench.host import stats
from bench.host.history.wording import columns
from bench.host.sweep.matrix import Cell, Impossible
from bench.host.sweep.measured import Held

State = Literal["measured", "found", "failed", "to measure"]
_NONE = "-"
_HEADINGS = ("cell", "state", "before ms", "after ms", "speed-up", "best peer", "ms", "of after")


@dataclass
class Line:
    """One cell and how it stands. ``reason`` says why it failed."""

    cell: Cell
    state: State
    held: Held
    reason: str | None = None


def table(lines: Sequence[Line]) -> list[str]:
    """One line a cell, as ``invoke results`` has one a run."""
    return columns(_HEADINGS, [_cells(line) for line in lines], left=2)


def notes(lines: Sequence[Line], impossible: Sequence[Impossible]) -> list[str]:
    """What the table's marks mean, and what is not in it."""
    said = []
    if any(_mixed(line) for line in lines):
        said.append("* from more than one run: its backends did not take turns")
    if any(_unstable(line) for line in lines):
        said.append("? unstable: invoke show RUN says why")
    said += [f"not possible: {one.what}: {one.reason}" for one in impossible]
    return said


def as_data(lines: Sequence[Line], impossible: Sequence[Impossible]) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "cells": [_data(line) for line in lines],
        "impossible": [{"what": one.what, "reason": one.reason} for one in impossible],
    }


def median_ms(held: Held, backend: str) -> float | None:
    """A backend's latency, the median of its rounds' medians, in milliseconds."""
    _, row = held.rows.get(backend, (None, None))
    if row is None or row.latency_ms is None:
        return None
    latency = row.latency_ms
    return statistics.median(stats.round_medians(latency.samples, latency.process))


def _cells(line: Line) -> tuple[str, ...]:
    before, after = median_ms(line.held, BEFORE), median_ms(line.held, AFTER)
    peer = _best_peer(line)
    mark = "*" * _mixed(line) + "?" * _unstable(line)
    return (
        str(line.cell),
        line.state + mark,
        _number(before),
        _number(after),
        f"{before / after:.1f}x" if before and after else _NONE,
        peer[1] if peer else _NONE,
        _number(peer[0] if peer else None),
        f"{peer[0] / after:.2f}x" if peer and after else _NONE,
    )


def _best_peer(line: Line) -> tuple[float, str] | None:
    peers = [
        (median, name)
        for name in line.cell.spec.backends
        if name in PEERS and (median := median_ms(line.held, name)) is not None
    ]
    return min(peers, default=None)


def _mixed(line: Line) -> bool:
    return len(line.held.runs(line.cell)) > 1


def _unstable(line: Line) -> bool:
    return any(row.unstable for _, row in line.held.rows.values())


def _data(line: Line) -> dict[str, Any]:
    spec = line.cell.spec
    rows = {name: line.held.rows[name] for name in spec.backends if name in line.held.rows}
    return {
        "spec": spec.model_dump(mode="json"),
        "profile": line.cell.profile,
        "state": line.state,
        "reason": line.reason,
        "runs": line.held.runs(line.cell),
        "missing": list(line.held.missing(line.cell)),
        "backends": {
            name: {
                "run": run,
                "status": row.status,
                "median_ms": median_ms(line.held, name),
                "tokens_per_s": row.tokens_per_s,
                "unstable": row.unstable,
            }
            for name, (run, row) in rows.items()
        },
    }


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
