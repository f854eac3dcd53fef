"""What a run was measured on, fact by fact: environment, machine's state, image, pins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.errors import BenchError
from bench.host import pins, report
from bench.host.history import identity
from bench.host.page.table import Table, pairs
from bench.record import Parity, RunRecord
from bench.system import SystemState

_RELEASE = "Release"


def debug(record: RunRecord) -> str | None:
    """How TVM in the image was built where that is not as a release; it costs speed."""
    built = identity.build_type(record)
    return None if built in (None, _RELEASE) else built


def tables(record: RunRecord) -> list[Table]:
    """Everything that is known of where and from what; only tables with something in them."""
    found = [
        pairs("Environment, seen from inside the job", report.environment(record)),
        pairs("What was asked for", list(_flat(record.spec.model_dump(exclude_none=True)))),
        _machine(record),
        pairs("Image: every label", sorted(record.image.labels.items()) if record.image else []),
        _pins(record),
    ]
    return [one for one in found if one is not None and one.rows]


def parity(record: RunRecord) -> Table | None:
    """How far each backend's logits are from the reference; None where none was held to it."""
    rows = sorted(record.results, key=report.order)
    found = [(row.backend, one) for row in rows if (one := row.parity)]
    if not found:
        return None
    headings = (
        "backend", "verdict", "reference", "max error", "relative", "tolerance", "top-1", "calls",
    )  # fmt: skip
    kinds = ["" if one.passed else "failed" for _, one in found]
    lines = [(name, *_parity(one)) for name, one in found]
    return Table("Logits against the reference", headings, lines, text=3, kinds=kinds)


def energy(record: RunRecord) -> Table | None:
    """Joules by backend and domain; None where nothing told."""
    rows = [
        (row.backend, domain, f"{joules:.3f}", str(one.calls), f"{one.per_token_j:.4g}")
        for row in sorted(record.results, key=report.order)
        if (one := row.energy)
        for domain, joules in sorted(one.by_domain_j.items())
    ]
    if not rows:
        return None
    caption = "Energy of the whole machine during the timed calls"
    headings = ("backend", "domain", "joules", "calls", "joules a token, all domains")
    return Table(caption, headings, rows, text=2)


def _parity(one: Parity) -> tuple[str, ...]:
    errors = (one.max_abs_err, one.max_rel_err)
    return (
        "passed" if one.passed else "failed",
        one.reference,
        *("not finite" if error is None else f"{error:.2e}" for error in errors),
        "-" if one.tolerance is None else f"{one.tolerance:.0e}",
        f"{one.top1_agreement:.2%}",
        "-" if one.calls is None else str(one.calls),
    )


def _machine(record: RunRecord) -> Table | None:
    where = record.environment
    if where is None or (where.before is None and where.after is None):
        return None
    before, after = _state(where.before), _state(where.after)
    rows = [(key, before.get(key, "-"), after.get(key, "-")) for key in {**before, **after}]
    headings = ("what", "before the run", "after it")
    caption = "State of the machine; counters count from its start"
    return Table(caption, headings, rows, text=3, filterable=True)


def _state(state: SystemState | None) -> dict[str, str]:
    return dict(_flat(state.model_dump(exclude_none=True))) if state else {}


def _pins(record: RunRecord) -> Table | None:
    """An image's labels have what it was made from; elsewhere the pins file stands in."""
    if record.image is not None:
        return None
    try:
        pinned = pins.load()
    except BenchError:
        return None
    rows = list(_flat(pinned.versions.model_dump()))
    return pairs("docker/pins.toml when this page was made; no image held the run to it", rows)


def _flat(data: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(one, dict) for one in value):
            for index, one in enumerate(value):
                yield from _flat(one, f"{name}.{index}.")
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(map(str, value))
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)
