"""Whether a version is the one that was asked for."""

from __future__ import annotations

import re


def has_version(seen: str, wanted: str) -> bool:
    """Whether a version is the wanted one, or lies within it: 14.0.6 in 14, but not in 1."""
    seen = seen.partition("+")[0]
    return seen == wanted or seen.startswith(f"{wanted}.")


def in_range(seen: str, wanted: str) -> bool:
    """Whether a version lies in a range as ">=3.24,<4".

    Raises:
        ValueError: the range or the version cannot be read.
    """
    for clause in wanted.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|!=|>|<)\s*([\d.]+)\s*", clause)
        if match is None:
            raise ValueError(f"{wanted!r} is no range of versions")
        left, right = _numbers(seen), _numbers(match[2])
        width = max(len(left), len(right))
        left, right = (part + (0,) * (width - len(part)) for part in (left, right))
        kept = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            ">": left > right,
            "<": left < right,
        }
        if not kept[match[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    if match is None:
        raise ValueError(f"{version!r} is no version")
    return tuple(map(int, match[0].split(".")))
