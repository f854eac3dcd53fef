"""CMake's cache, and its notions of truth and of CUDA architectures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# What CMake takes for false (its documentation of `if`), and what TVM writes for "not looked for".
_FALSE = {"", "0", "OFF", "NO", "FALSE", "N", "IGNORE", "NOTFOUND", "NOT-FOUND"}


def read_cache(path: Path) -> dict[str, str]:
    """The entries of a CMakeCache.txt: ``NAME:TYPE=VALUE``, one a line."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r'"?([^#/":=][^":=]*)"?:[A-Z]+=(.*)', line)
        if match:
            found[match[1]] = match[2]
    return found


def is_on(value: str) -> bool:
    """Whether CMake takes a value for true where it is a switch or a path."""
    return value.upper() not in _FALSE and not value.upper().endswith("-NOTFOUND")


def architectures(value: str | Sequence[str]) -> list[str]:
    """CMAKE_CUDA_ARCHITECTURES as compute capabilities: "80-real;sm_86" is 80 and 86."""
    words = re.split(r"[;,\s]+", value) if isinstance(value, str) else value
    return sorted({re.sub(r"^(sm_|compute_)|-(real|virtual)$", "", w) for w in words if w})
