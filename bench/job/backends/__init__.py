"""The registry of backends: each turns a model and a spec into something that can be called."""

from __future__ import annotations

import importlib

from bench.catalog import KNOWN_BACKENDS
from bench.job.backends.base import Backend


def load(name: str) -> Backend:
    """The backend called ``name``; its module, and so torch or tvm, is imported only now."""
    module, attribute = KNOWN_BACKENDS[name].split(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)
    return backend
