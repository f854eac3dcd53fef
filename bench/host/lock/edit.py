"""A value in pins.toml, written in its place: comments, order and all else stay as they were.

No TOML library writes the file: a line is replaced, and what came out is read again and held
against what was meant. Knows what this file uses: ``[tables]`` and one ``key = value`` a line.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import UsageFault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = str | int | list[str] | None
Place = tuple[str, ...]

HINT = "edit docker/pins.toml by hand: invoke lock --check says what it should hold"


def edited(text: str, edits: Mapping[Place, Value]) -> str:
    """The text with each value in its place; None takes the key out, an absent key is added.

    Raises:
        UsageFault: a place is written in a way that this editor does not know.
    """
    wanted = tomllib.loads(text)
    for place, value in edits.items():
        text = _written(text, place, value)
        _meant(wanted, place, value)
    if tomllib.loads(text) != wanted:
        raise UsageFault("docker/pins.toml would not come out as meant", hint=HINT)
    return text


def _meant(data: dict[str, Any], place: Place, value: Value) -> None:
    table = data
    for name in place[:-1]:
        table = table.setdefault(name, {})
    if value is None:
        table.pop(place[-1], None)
    else:
        table[place[-1]] = copy.copy(value)


def _written(text: str, place: Place, value: Value) -> str:
    lines = text.splitlines(keepends=True)
    start, end = _table(lines, place[:-1])
    for number in range(start, end):
        found = re.match(r"\s*([\w.\"'-]+|\"[^\"]*\"|'[^']*')\s*=\s*", lines[number])
        if found is None or found[1].strip("\"'") != place[-1]:
            continue
        old = re.match(r'"[^"\n]*"|\[[^\]\n]*\]|\d+(?![\d.])', lines[number][found.end() :])
        if old is None:
            raise UsageFault(f"docker/pins.toml: cannot rewrite {'.'.join(place)}", hint=HINT)
        if value is None:
            del lines[number]
        else:
            rest = lines[number][found.end() + old.end() :]
            lines[number] = f"{found[0]}{_spelt(value)}{rest}"
        return "".join(lines)
    if value is not None:
        # Behind the last key of the table, before the blank line that ends it.
        while end > start and not re.match(r"\s*[\w\"'].*=", lines[end - 1]):
            end -= 1
        key = place[-1] if re.fullmatch(r"[\w-]+", place[-1]) else json.dumps(place[-1])
        lines.insert(end, f"{key} = {_spelt(value)}\n")
    return "".join(lines)


def _table(lines: Sequence[str], name: Place) -> tuple[int, int]:
    """The lines of a table, behind its header and before the next one's."""
    start = None
    for number, line in enumerate(lines):
        if header := re.match(r"\s*\[([^\[\]]+)\]\s*(#.*)?$", line):
            if start is not None:
                return start, number
            parts = re.findall(r"\"([^\"]*)\"|'([^']*)'|([\w-]+)", header[1])
            if tuple(next(filter(None, part)) for part in parts) == tuple(name):
                start = number + 1
    if start is None:
        raise UsageFault(f"docker/pins.toml has no table [{'.'.join(name)}]", hint=HINT)
    return start, len(lines)


def _spelt(value: str | int | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)
