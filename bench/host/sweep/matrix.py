"""A sweep's cells: the product of the axes, less what is excluded and what cannot be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.catalog import CHOICES, MODELS, MODES
from bench.errors import UsageFault
from bench.host.sweep.file import HINT, Axes, Matrix, SweepFile, refused
from bench.record import JobSpec, RecordedSpec

# None of them changes what one call of a backend is measured to take.
_NOT_THE_CELL = ("backends", "timeout_s")

Key = tuple[str, str | None]


@dataclass(frozen=True)
class Cell:
    """One run to be had: its spec, with every backend wanted, and the profile of its image."""

    spec: JobSpec
    profile: str | None = None

    @property
    def key(self) -> Key:
        """What two cells have in common that are one."""
        return identity_of(self.spec), self.profile

    def __str__(self) -> str:
        spec = self.spec
        words = [spec.named, spec.mode, f"batch {spec.batch_size}", f"{spec.seq_len} tokens"]
        words.append(spec.dtype)
        words += ["cuda"] * (spec.device == "cuda")
        words += [f"{spec.threads} threads"] if spec.threads else []
        words += [f"in {self.profile}"] if self.profile else []
        return ", ".join([" ".join(words[:2]), *words[2:]])


@dataclass(frozen=True)
class Impossible:
    """A combination that no run can be of, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Cells:
    """What a file asks for, in its order."""

    possible: tuple[Cell, ...]
    impossible: tuple[Impossible, ...]


def identity_of(spec: RecordedSpec) -> str:
    """All of a spec that decides what is measured of one backend, as JSON."""
    recorded = RecordedSpec.model_validate(spec.model_dump())
    return recorded.model_dump_json(exclude=set(_NOT_THE_CELL))


def expand(file: SweepFile, path: Path) -> Cells:
    """The cells of ``file``, each once; where two tables ask for one, it has both's backends.

    Raises:
        UsageFault: a value cannot be used, an ``exclude`` fits no cell, or nothing is left.
    """
    possible: dict[Key, Cell] = {}
    impossible: dict[str, Impossible] = {}
    used: set[int] = set()
    for matrix in file.sweep:
        for given in _combinations(matrix):
            fitting = [n for n, one in enumerate(file.exclude) if _fits(given, one)]
            used.update(fitting)
            if fitting:
                continue
            cell = _cell(given, matrix, path)
            if isinstance(cell, Impossible):
                impossible[cell.what] = cell
            else:
                before = possible.get(cell.key)
                possible[cell.key] = _joined(before, cell) if before else cell
    unused = [n + 1 for n in range(len(file.exclude)) if n not in used]
    if unused:
        raise UsageFault(f"{path}: exclude {unused[0]} fits no cell", hint=HINT)
    if not possible:
        why = next((f": {one.what}: {one.reason}" for one in impossible.values()), "")
        raise UsageFault(f"{path} leaves nothing to measure{why}", hint=HINT)
    return Cells(tuple(possible.values()), tuple(impossible.values()))


def _combinations(matrix: Matrix) -> Iterator[dict[str, Any]]:
    """One value of each axis that is given; a mode left out is the model's own."""
    axes = {name: getattr(matrix, name) for name in Axes.model_fields}
    given = {name: values for name, values in axes.items() if values is not None}
    for values in itertools.product(*given.values()):
        one = dict(zip(given, values, strict=True))
        geometry = MODELS[one.get("model", JobSpec().model)]
        one.setdefault("mode", next(m for m, kind in MODES.items() if isinstance(geometry, kind)))
        yield one


def _fits(given: dict[str, Any], excluded: Axes) -> bool:
    whole = {**JobSpec().model_dump(), **given}
    wanted = {name: getattr(excluded, name) for name in Axes.model_fields}
    return all(whole.get(name) in values for name, values in wanted.items() if values is not None)


def _cell(given: dict[str, Any], matrix: Matrix, path: Path) -> Cell | Impossible:
    options = {
        name: getattr(matrix, name)
        for name in Matrix.model_fields
        if name not in Axes.model_fields and getattr(matrix, name) is not None
    }
    profile = given.get("profile")
    told = {name: value for name, value in given.items() if name != "profile"}
    try:
        return Cell(JobSpec.model_validate({**options, **told}), profile)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"]:  # a value that is wrong by itself, whatever it is combined with
            raise refused(path, error) from error
        what = ", ".join(f"{name} {value}" for name, value in given.items())
        return Impossible(what, first["msg"].removeprefix("Value error, "))


def _joined(one: Cell, other: Cell) -> Cell:
    names = {*one.spec.backends, *other.spec.backends}
    # In the table's order, unless a file has given one.
    new = [name for name in CHOICES if name in names and name not in one.spec.backends]
    backends = (*one.spec.backends, *new)
    timeout_s = max(one.spec.timeout_s, other.spec.timeout_s)
    spec = one.spec.model_copy(update={"backends": backends, "timeout_s": timeout_s})
    return Cell(spec, one.profile)
