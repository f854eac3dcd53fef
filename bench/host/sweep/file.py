"""The TOML file of a sweep, read and validated: what is wrong is named by its place."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
)

from bench.catalog import CHOICES, DTYPES, MODELS, MODES
from bench.errors import UsageFault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HINT = "docs/sweeps.md has every key; docs/sweeps/ has examples"
_TABLES = ("sweep", "exclude")


def _several(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _checked(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an empty list leaves nothing to measure")
    if len(set(values)) != len(values):
        raise ValueError("a value stands here twice")
    return values


def _among(known: Iterable[str]) -> AfterValidator:
    names = tuple(known)

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"unknown '{value}'{_nearest(value, names)}")
        return value

    return AfterValidator(check)


T = TypeVar("T")
_Several = Annotated[tuple[T, ...], BeforeValidator(_several), AfterValidator(_checked)]
_Model = Annotated[str, _among(MODELS)]
_Mode = Annotated[str, _among(MODES)]
_Dtype = Annotated[str, _among(DTYPES)]
_Backend = Annotated[str, _among(CHOICES)]
_Count = Annotated[StrictInt, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Axes(_Strict):
    """What a cell is told by. Each key is a value or a list; None takes what `bench` takes."""

    model: _Several[_Model] | None = None
    mode: _Several[_Mode] | None = None
    seq_len: _Several[_Count] | None = None
    batch_size: _Several[_Count] | None = None
    dtype: _Several[_Dtype] | None = None
    device: _Several[Literal["cpu", "cuda"]] | None = None
    profile: _Several[str] | None = None
    threads: _Several[_Count] | None = None
    layers: _Several[_Count] | None = None


class Matrix(Axes):
    """The product of its axes, all of it measured with the same options."""

    backends: _Several[_Backend] | None = None
    repeats: StrictInt | None = None
    rounds: StrictInt | None = None
    seed: StrictInt | None = None
    timeout_s: float | None = None
    operators: Literal["none", "table", "trace"] | None = None
    pin: tuple[StrictInt, ...] | None = None


class SweepFile(_Strict):
    """A whole file. ``exclude`` takes out the cells that fit one of its tables."""

    engine: Literal["auto", "docker", "local"] = "auto"
    sweep: tuple[Matrix, ...] = Field(min_length=1)
    exclude: tuple[Axes, ...] = ()


def read(path: Path) -> SweepFile:
    """The sweep in ``path``. Keys above the tables hold for every ``[[sweep]]`` that lacks them.

    Raises:
        UsageFault: it cannot be read, is no TOML, or says what no sweep has; the place is named.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageFault(f"cannot read {path}: {said}", hint="invoke sweep FILE.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageFault(f"{path} is no TOML: {error}", hint=HINT) from error
    except RecursionError as error:
        raise UsageFault(f"{path} is nested too deep", hint=HINT) from error
    common = {key: value for key, value in table.items() if key not in ("engine", *_TABLES)}
    tables = {name: _tables(path, name, table.get(name, [])) for name in _TABLES}
    _demand_known(path, "", common, [*Matrix.model_fields, "engine", *_TABLES])
    for name, fields in (("sweep", Matrix.model_fields), ("exclude", Axes.model_fields)):
        for number, one in enumerate(tables[name], start=1):
            _demand_known(path, f"{name} {number}: ", one, fields)
    if any(not one for one in tables["exclude"]):
        raise UsageFault(f"{path}: an empty exclude takes out every cell", hint=HINT)
    merged = {
        **{key: table[key] for key in ("engine",) if key in table},
        "sweep": [{**common, **one} for one in tables["sweep"] or [{}]],
        "exclude": tables["exclude"],
    }
    try:
        return SweepFile.model_validate(merged)
    except ValidationError as error:
        raise refused(path, error) from error


def refused(path: Path, error: ValidationError) -> UsageFault:
    """The first thing that ``error`` finds, by its place in the file."""
    first = error.errors(include_url=False)[0]
    place = " ".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f" (it is {first['input']!r:.60})"
    return UsageFault(f"{path}: {place}: {said}{given}", hint=HINT)


def _tables(path: Path, name: str, found: Any) -> list[dict[str, Any]]:
    tables = [found] if isinstance(found, dict) else found
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise UsageFault(f"{path}: {name} is no table", hint=f"write [[{name}]]")
    return tables


def _demand_known(path: Path, where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            raise UsageFault(f"{path}: {where}unknown key '{key}'{_nearest(key, names)}", hint=HINT)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(re.sub(r"[\s-]", "_", name), names, n=1)
    near = near or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; choose from: {', '.join(names)}"
