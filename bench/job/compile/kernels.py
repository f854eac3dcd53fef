"""The kernels that a rewritten module calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.job.compile import api


class Kernels:
    """Each kernel written once, however many layers of a model call it."""

    def __init__(self, builder: Any) -> None:
        """``builder`` is the ``relax.BlockBuilder`` of the module that they are put into."""
        self._builder = builder
        self._known: dict[Any, Any] = {}

    def var(self, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The global variable of the kernel that ``make`` returns for these arguments.

        What ``make`` returns depends on its arguments alone, and they can be hashed.
        """
        key = (make, args, tuple(sorted(options.items())))
        if key not in self._known:
            kernel = make(*args, **options)
            self._known[key] = self._builder.add_func(kernel, api.kernel_name(kernel))
        return self._known[key]
