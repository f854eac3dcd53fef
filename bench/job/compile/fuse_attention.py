"""Attention found in a Relax module, whatever operators it was taken apart into, and made one.

What is looked for is what PyTorch's decomposition of ``scaled_dot_product_attention`` leaves,
between the joint projection of queries, keys and values and the merging of the heads; and the
step of ``bench.job.cached``. What is not found stays as it is, and is right all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.job.compile import api
from bench.job.compile.api import relax
from bench.job.compile.graph import Graph, integers, without_dead
from bench.job.compile.kernels import Kernels
from bench.job.compile.schedules import attention
from bench.job.compile.schedules.gpu import attention as gpu_attention
from bench.job.compile.target import CompileTarget

_HEADS_FIRST = [0, 2, 1, 3]  # (B, T, H, D) to (B, H, T, D), and back


def use_attention(mod: Any, target: CompileTarget) -> Any:
    """``mod`` with every attention that is found in it as one kernel."""
    return _UseAttention(mod, target).rewrite()


@dataclass(frozen=True)
class _Heads:
    """Queries, keys and values of B sequences: one variable (B, T, 3 * H * D)."""

    joint: Any
    b: int
    t: int
    h: int
    d: int


# The ignore: TVM has no type hints, so that its mutator is Any to mypy.
@api.mutator
class _UseAttention(api.PyExprMutator):  # type: ignore[misc]  # TVM has no types
    """One walk over ``main``."""

    def __init__(self, mod: Any, target: CompileTarget) -> None:
        super().__init__(mod)
        self.kernels = Kernels(self.builder_)
        self.target = target
        self.main = mod["main"]
        halves = any(api.shape_of(param, "float16") is not None for param in self.main.params)
        self.dtype = "float16" if halves and target.kind == "cuda" else "float32"
        self.graph = Graph(self.main, self.dtype)

    def rewrite(self) -> Any:
        main = self.visit_expr(self.main)
        self.builder_.update_func(self.builder_.get().get_global_var("main"), main)
        return without_dead(self.builder_.get())

    def visit_call_(self, call: Any) -> Any:
        """A kernel, where ``call`` puts the heads of an attention together."""
        replacement = None
        if api.is_call(call, "relax.reshape") and api.shape_of(call, self.dtype) is not None:
            found = self._merged(call.args[0])
            if found is not None:
                replacement = self._attention(found, call)
                if replacement is None:
                    replacement = self._step(found, call)
        return super().visit_call_(call) if replacement is None else replacement

    def _merged(self, var: Any) -> Any:
        """(B, H, T, D) where ``var`` is its transpose (B, T, H, D), in however many steps."""
        axes = [0, 1, 2, 3]
        while (value := self.graph.call(var, "relax.permute_dims")) is not None:
            if value.attrs.axes is None or len(value.attrs.axes) != len(axes):
                return None
            axes = [int(value.attrs.axes[axis]) for axis in axes]
            var = value.args[0]
        return var if axes == _HEADS_FIRST else None

    def _attention(self, found: Any, call: Any) -> Any:
        product = self.graph.call(self.graph.matrices(found), "relax.matmul")
        if product is None:
            return None
        scores = self._softmaxed(self.graph.matrices(product.args[0]))
        if scores is None:
            return None
        causal = False
        masked = self.graph.call(scores, "relax.add")
        if masked is not None:
            scores, mask = masked.args[0], self.graph.constant(masked.args[1])
            if not _is_causal(mask):
                return None
            causal = True
        inner = self.graph.call(self.graph.matrices(scores), "relax.matmul")
        if inner is None:
            return None
        q, q_scale = self._scaled(self.graph.matrices(inner.args[0]))
        turned, k_scale = self._scaled(self.graph.matrices(inner.args[1]))
        k = self.graph.call(turned, "relax.permute_dims")
        if k is None or _axes(k) != [0, 1, 3, 2]:
            return None
        heads = self._heads(q, k.args[0], self.graph.matrices(product.args[1]))
        if heads is None:
            return None
        sizes, scale = (heads.b, heads.t, heads.h, heads.d), q_scale * k_scale
        if self.target.kind == "cuda":
            if not gpu_attention.fits(heads.d):
                return None
            kernel = self.kernels.var(
                gpu_attention.attention, *sizes, scale=scale, causal=causal, dtype=self.dtype
            )
        else:
            kernel = self.kernels.var(
                attention.attention, *sizes, scale=scale, causal=causal, target=self.target
            )
        shape = (heads.b, heads.t, 3, heads.h, heads.d)
        return self._call(kernel, [self._joint(heads, shape)], _without(shape, 2), call)

    def _step(self, found: Any, call: Any) -> Any:
        """One query, its own key and value, and a cache up to a position."""
        total = self.graph.call(found, "relax.add")
        if total is None:
            return None
        cached = self.graph.call(self.graph.matrices(total.args[0]), "relax.matmul")
        own = self.graph.call(total.args[1], "relax.multiply")
        if cached is None or own is None:
            return None
        earlier = self.graph.call(self.graph.matrices(cached.args[0]), "relax.strided_slice")
        values = self.graph.bare(self.graph.matrices(cached.args[1]))
        last = self.graph.call(own.args[0], "relax.strided_slice")
        shape = api.shape_of(values, self.dtype)
        if earlier is None or last is None or not self._same(earlier.args[0], last.args[0]):
            return None
        softmax = self.graph.call(last.args[0], "relax.nn.softmax")
        if softmax is None or shape is None or len(shape) != 4:
            return None
        s = shape[2]
        if [integers(part) for part in earlier.args[1:4]] != [(3,), (0,), (s,)]:
            return None
        if [integers(part) for part in last.args[1:3]] != [(3,), (s,)]:
            return None
        joined = self.graph.call(softmax.args[0], "relax.concat")
        if joined is None or int(softmax.attrs.axis) not in (-1, 3):
            return None
        fields = list(getattr(joined.args[0], "fields", ()))
        masked = self.graph.call(fields[0], "relax.where") if len(fields) == 2 else None
        alone = self.graph.call(fields[-1], "relax.sum")
        if masked is None or alone is None or int(joined.attrs.axis) not in (-1, 3):
            return None
        position = self._position(masked.args[0], s)
        hidden = self.graph.constant(masked.args[1])
        scores = self.graph.call(self.graph.matrices(masked.args[2]), "relax.matmul")
        product = self.graph.call(alone.args[0], "relax.multiply")
        if position is None or hidden is None or scores is None or product is None:
            return None
        if hidden.size != 1 or hidden.item() != -math.inf:
            return None
        scaled = self.graph.matrices(scores.args[0])
        q, scale = self._scaled(scaled)
        heads = self._heads(q, product.args[1], own.args[1])
        keys = self.graph.bare(self.graph.matrices(scores.args[1]))
        if heads is None or heads.t != 1 or not self._same(product.args[0], scaled):
            return None
        if [int(axis) for axis in alone.attrs.axis] not in ([-1], [3]):
            return None
        b, h, d = heads.b, heads.h, heads.d
        if shape != (b, h, s, d) or api.shape_of(keys, self.dtype) != (b, h, d, s):
            return None
        args = [self._joint(heads, (b, 3, h, d)), *map(self.visit_expr, (keys, values, position))]
        if self.target.kind != "cuda":
            kernel = self.kernels.var(attention.attend, b, h, d, s, scale=scale, target=self.target)
            return self._call(kernel, args, (b, h, d), call)
        kernel = self.kernels.var(gpu_attention.attend, b, h, d, s, scale=scale, dtype=self.dtype)
        parts = gpu_attention.parts_of(s)
        if parts == 1:
            return self._call(kernel, args, (b, h, d), call)
        found = self._kernel(kernel, args, (b, h, parts, d + 2), "float32")
        merge = self.kernels.var(gpu_attention.merge, b, h, d, parts, dtype=self.dtype)
        return self._call(merge, [found], (b, h, d), call)

    def _softmaxed(self, weights: Any) -> Any:
        """The scores that ``weights`` are the softmax of.

        Where all scores of a row are -inf PyTorch gives zeros. With a causal mask, or none, a
        position sees at least itself.
        """
        guard = self.graph.call(weights, "relax.where")
        softmax = self.graph.call(weights if guard is None else guard.args[2], "relax.nn.softmax")
        if softmax is None:
            return None
        scores = softmax.args[0]
        shape = self.graph.shape(scores) or ()
        if int(softmax.attrs.axis) not in (-1, len(shape) - 1):
            return None
        if guard is not None:
            zeros = self.graph.call(guard.args[1], "relax.full_like")
            filled = None if zeros is None else self.graph.constant(zeros.args[1])
            if filled is None or filled.item() != 0:
                return None
            if not self._hides_empty_rows(guard.args[0], scores):
                return None
        return scores

    def _hides_empty_rows(self, condition: Any, scores: Any) -> bool:
        """Whether ``condition`` is: not any of the scores differs from -inf."""
        chain = ("logical_not", "astype", "max", "astype", "logical_not", "equal")
        for name in chain:
            call = self.graph.call(condition, f"relax.{name}")
            if call is None:
                return False
            condition = call.args[0]
        lowest = self.graph.constant(call.args[1])
        return bool(
            self._same(condition, scores) and lowest is not None and lowest.item() == -math.inf
        )

    def _position(self, condition: Any, s: int) -> Any:
        """The variable (1,) that ``condition`` compares all places of a cache with."""
        turned = self.graph.call(condition, "relax.bitwise_not", "relax.logical_not")
        past = None if turned is None else self.graph.call(turned.args[0], "relax.less")
        if past is None or api.shape_of(past.args[1], "int64") != (1,):
            return None
        places = self.graph.constant(past.args[0])
        if places is None or not np.array_equal(places, np.arange(s)):
            return None
        return past.args[1]

    def _scaled(self, var: Any) -> tuple[Any, float]:
        """What ``var`` is a multiple of, and by how much."""
        call = self.graph.call(var, "relax.multiply")
        factor = None if call is None else self.graph.constant(call.args[1])
        if factor is None or factor.size != 1:
            return var, 1.0
        return call.args[0], float(factor.item())

    def _heads(self, q: Any, k: Any, v: Any) -> _Heads | None:
        """The one projection that these three (B, H, T, D) are thirds of."""
        joint = []
        for index, part in enumerate((q, k, v)):
            turned = self.graph.call(part, "relax.permute_dims")
            if turned is None or _axes(turned) != _HEADS_FIRST:
                return None
            third = self.graph.values.get(self.graph.bare(self.graph.reshaped(turned.args[0])))
            if not isinstance(third, relax.TupleGetItem) or third.index != index:
                return None
            split = self.graph.call(third.tuple_value, "relax.split")
            if split is None:
                return None
            joint.append(split)
        whole, shape = api.shape_of(joint[0].args[0], self.dtype), self.graph.shape(q)
        if whole is None or shape is None or len(shape) != 4:
            return None
        if not all(part.args[0].same_as(joint[0].args[0]) for part in joint):
            return None
        b, h, t, d = shape
        sections = integers(joint[0].attrs.indices_or_sections)
        if whole != (b, t, 3 * h * d) or int(joint[0].attrs.axis) not in (-1, 2):
            return None
        if sections not in ((h * d, 2 * h * d), (3,)):
            return None
        return _Heads(joint[0].args[0], b, t, h, d)

    def _joint(self, heads: _Heads, shape: tuple[int, ...]) -> Any:
        return self.builder_.emit(relax.op.reshape(self.visit_expr(heads.joint), list(shape)))

    def _same(self, one: Any, other: Any) -> bool:
        return bool(self.graph.bare(one).same_as(self.graph.bare(other)))

    def _kernel(self, kernel: Any, args: list[Any], shape: tuple[int, ...], dtype: str) -> Any:
        return self.builder_.emit(relax.call_tir(kernel, args, api.tensor_type(shape, dtype)))

    def _call(self, kernel: Any, args: list[Any], shape: tuple[int, ...], call: Any) -> Any:
        result = self._kernel(kernel, args, shape, self.dtype)
        return relax.op.reshape(result, list(api.shape_of(call, self.dtype) or ()))


def _axes(permuted: Any) -> list[int]:
    axes = permuted.attrs.axes
    return [] if axes is None else [int(axis) for axis in axes]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _is_causal(mask: np.ndarray | None) -> bool:
    """Whether ``mask`` (T, T) is 0 up to the diagonal and -inf behind it."""
    if mask is None or mask.ndim < 2 or mask.shape[-1] != mask.shape[-2] or mask.size == 0:
        return False
    t = mask.shape[-1]
    wanted = np.where(np.tril(np.ones((t, t), bool)), 0.0, -math.inf)
    return bool(mask.size == t * t and np.array_equal(mask.reshape(t, t), wanted))
