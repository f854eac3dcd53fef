"""Which step of docker/Dockerfile made a layer, and which one to suspect for a file in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Where a file comes from another stage: what the layer's own step only lays down.
_ORIGINS = (
    (r"opt/venv/lib/[^/]+/site-packages/tvm(/|$|-)|opt/gpt-frontend/built(/|$)", "compile TVM"),
    (r"usr/local/cuda(/|$)", "CUDA from wheels"),
    (r"opt/private(/|$)", "private repository"),
)
_TVM = "TVM, and versions against the pins"


def name(created_by: str) -> str:
    """A step by the comment that it begins with, else by its instruction.

    As buildx shows it: ``RUN |1 A=b /bin/sh -c # compilers and Python\\nset -eu…``.
    """
    if comment := re.search(r"(?:-c |\(|')# ([^\n\\]+?)(?:\.\.\.)?(?:\n|\\n|\)|$)", created_by):
        return comment[1].strip()
    short = re.sub(r"\s*# buildkit$", "", created_by.strip())
    return short[:80] or "the base image"


def of_layers(history: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """The step of each layer, from an image's history; an import may have left no name."""
    made = [name(str(one.get("created_by", ""))) for one in history if not one.get("empty_layer")]
    missing = count - len(made)
    return ["the base image"] * missing + made if missing >= 0 else made[:count]


def suspect(step: str, path: str) -> str:
    """The step to look at for a file in a layer."""
    for pattern, origin in _ORIGINS:
        # A wheel of TVM's is unpacked by the Python packages' step itself.
        if re.match(pattern, path) and (origin != "compile TVM" or step == _TVM):
            return origin
    return step
