"""A Relax function's bindings as a graph: what a variable stands for, who reads it, its shape."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from bench.job.compile import api, names

_NUMPY: dict[str, Any] = {
    "relax.less_equal": np.less_equal,
    "relax.less": np.less,
    "relax.subtract": np.subtract,
    "relax.logical_and": np.logical_and,
    "relax.where": np.where,
}


def integer(expr: Any) -> int | None:
    """The whole number that ``expr`` is; None for anything else."""
    value = getattr(expr, "value", expr)
    value = getattr(value, "value", value)
    return value if isinstance(value, int) else None


def integers(expr: Any) -> tuple[int | None, ...]:
    """The whole numbers of a tuple, a shape or a list; a lone one as a tuple of one."""
    parts = getattr(expr, "fields", None)
    if parts is None:
        parts = getattr(expr, "values", None)
    if parts is None:
        parts = expr if hasattr(expr, "__len__") else [expr]
    return tuple(integer(part) for part in parts)


def without_dead(mod: Any) -> Any:
    """``mod`` without the bindings of ``main`` that nobody reads, and functions nobody calls.

    The bindings of a GPT are thousands, and TVM's own pass takes time by the square of how many
    it removes: it finds few left.
    """
    main = mod["main"]
    live = set(api.relax.analysis.free_vars(main.body.body))
    blocks = []
    for block in reversed(main.body.blocks):
        kept = []
        for binding in reversed(block.bindings):
            if binding.var in live:
                live.update(api.relax.analysis.free_vars(binding.value))
                kept.append(binding)
        blocks.append(type(block)(kept[::-1]))
    body = api.relax.SeqExpr(blocks[::-1], main.body.body)
    kind = names.type_of(main.body.body)
    main = api.relax.Function(main.params, body, kind, is_pure=main.is_pure, attrs=main.attrs)
    mod["main"] = main
    return api.relax.transform.DeadCodeElimination()(mod)


class Graph:
    """The bindings of ``main`` as imported; ``dtype`` is what the model computes in.

    In float16 a step to float32 or back is looked through: which sums are rounded on the way is
    for a kernel to choose. In float32 it is not, for there it is the model's own.
    """

    def __init__(self, main: Any, dtype: str = "float32") -> None:
        self._floats = ("float32",) if dtype == "float32" else (dtype, "float32")
        self.values: dict[Any, Any] = {
            binding.var: binding.value for block in main.body.blocks for binding in block.bindings
        }
        self._uses: Counter[Any] = Counter()
        for value in self.values.values():
            self._uses.update(var for var in api.direct_vars(value) if var is not None)
            if api.is_call(value, "relax.concat"):
                self._uses.update(value.args[0].fields if hasattr(value.args[0], "fields") else ())
        self._uses[main.body.body] += 1

    def is_read_once(self, var: Any) -> bool:
        """Whether one binding, and nothing else, reads ``var``."""
        return self._uses[var] == 1

    def shape(self, expr: Any) -> tuple[int, ...] | None:
        """The shape of a tensor of what the model computes in, where it is constant; else None."""
        found = (api.shape_of(expr, dtype) for dtype in self._floats)
        return next((shape for shape in found if shape is not None), None)

    def bare(self, var: Any) -> Any:
        """What ``var`` is a copy of in another precision, where such are looked through."""
        while len(self._floats) > 1:
            value: Any = self.values.get(var)
            if not api.is_call(value, "relax.astype"):
                break
            if self.shape(value.args[0]) is None or self.shape(var) is None:
                break
            var = value.args[0]
        return var

    def call(self, var: Any, *operators: str) -> Any:
        """The call of one of these operators that ``var`` is bound to; None if it is not."""
        value = self.values.get(self.bare(var))
        known = value is not None and any(api.is_call(value, name) for name in operators)
        return value if known else None

    def reshaped(self, var: Any) -> Any:
        """What ``var`` shows, maybe in another shape: the same elements in the same order."""
        while True:
            value = self.call(var, "relax.reshape", "relax.broadcast_to")
            if value is None or self._count(value.args[0]) != self._count(var):
                return var
            var = value.args[0]

    def matrices(self, var: Any) -> Any:
        """As ``reshaped``, but only as far as the last two axes stay what they are."""
        while True:
            value = self.call(var, "relax.reshape", "relax.broadcast_to")
            if value is None or self._count(value.args[0]) != self._count(var):
                return var
            before, after = (self.shape(expr) for expr in (value.args[0], var))
            if before is None or after is None or before[-2:] != after[-2:]:
                return var
            var = value.args[0]

    def constant(self, var: Any) -> np.ndarray | None:
        """The value of ``var`` where it depends on no argument; None where it does, or unknown.

        Knows what masks are made of, no more.
        """
        var = self.bare(var)
        value = self.values.get(var, var)
        literal = api.constant(value)
        if literal is not None or value is var:
            return literal
        name = getattr(getattr(value, "op", None), "name", "")
        if name == "relax.arange":
            start, stop, step = integers(value.args)
            if start is None or stop is None or step is None:
                return None
            return np.arange(start, stop, step)
        if name == "relax.full":
            shape = api.shape_of(var, "bool")
            fill = self.constant(value.args[1])
            return None if shape is None or fill is None else np.full(shape, fill)
        if name == "relax.expand_dims":
            inner = self.constant(value.args[0])
            axes = tuple(int(axis) for axis in value.attrs.axis)
            return None if inner is None else np.expand_dims(inner, axes)
        if name not in _NUMPY:
            return None
        args = [self.constant(arg) for arg in value.args]
        if any(arg is None for arg in args):
            return None
        result: np.ndarray = _NUMPY[name](*args)
        return result

    def _count(self, expr: Any) -> int | None:
        shape = self.shape(expr)
        return None if shape is None else math.prod(shape)
