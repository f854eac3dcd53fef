"""How MetaSchedule's builders make code: in processes of their own, one batch long.

A module for this alone: a builder imports it, and nothing that takes it longer than to build.
"""

from __future__ import annotations

import importlib
from typing import Any


def build(mod: Any, target: Any, _params: Any) -> Any:
    """What MetaSchedule's own does, but for importing all of TVM's hardware intrinsics."""
    return importlib.import_module("tvm.driver").build(mod, target=target)
