"""Relax operators exchanged for this project's CPU kernels, and weights for packed ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.job.compile import api
from bench.job.compile.api import relax
from bench.job.compile.graph import Graph, without_dead
from bench.job.compile.kernels import Kernels
from bench.job.compile.schedules import linear, matmul, panels, rows
from bench.job.compile.schedules.tile import panel_width
from bench.job.compile.target import CompileTarget
from bench.limits import available_cores

# On ``main``: for every parameter after the inputs the panel width it is packed to, or 0.
PACKED_ATTR = "bench.packed"
# Beside it, the key of ``panels.FORMATS`` that packed parameters are stored in. Where that has
# scales, they are parameters too: after all others, in the order of the weights that they are of.
STORED_ATTR = "bench.stored"

_PACKERS = 4
_BROADCAST = "relax.broadcast_to"


def use_kernels(
    mod: Any,
    target: CompileTarget,
    *,
    packed: bool = True,
    epilogues: bool = True,
    stored: str = "float32",
) -> Any:
    """``mod`` with every operator replaced that a kernel fits; what is left over stays.

    With ``packed``, weights that are only ever multiplied with, or only looked up by row, become
    packed parameters: ``pack_params`` makes the arrays that the new ``main`` expects. With
    ``epilogues``, what follows the product with a packed weight becomes part of it: an
    activation, or the sum with the residual stream. Packed weights are ``stored`` in a type of
    ``panels.FORMATS``; everything else stays float32.
    """
    return _UseKernels(mod, target, packed, epilogues, panels.FORMATS[stored]).rewrite()


def pack_params(mod: Any, params: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``params`` in the layouts that ``mod``'s ``main`` expects."""
    attrs = mod["main"].attrs
    if not attrs or PACKED_ATTR not in attrs:
        return list(params)
    widths = [int(width) for width in attrs[PACKED_ATTR]]
    stored = panels.FORMATS[str(attrs[STORED_ATTR])]

    def packed(one: tuple[np.ndarray, int]) -> tuple[np.ndarray, np.ndarray | None]:
        param, width = one
        return stored.stored(param, width) if width else (param, None)

    # NumPy holds no lock while it copies. A weight may take several times its size meanwhile.
    with ThreadPoolExecutor(min(available_cores(), _PACKERS)) as threads:
        made = list(threads.map(packed, zip(params, widths, strict=True)))
    return [param for param, _ in made] + [scale for _, scale in made if scale is not None]


def legalize_map() -> dict[str, Callable[[Any, Any], Any]]:
    """Operators that are lowered by TVM's rules but for their arithmetic."""

    def rule(name: str, function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        def legalize(builder: Any, call: Any) -> Any:
            if api.float32_shape(call.args[0]) is None:
                return api.stock_legalize(f"relax.nn.{name}")(builder, call)
            return builder.call_te(api.elementwise(function), call.args[0], primfunc_name_hint=name)

        return legalize

    return {
        f"relax.nn.{name}": rule(name, function) for name, function in linear.ACTIVATIONS.items()
    }


# The ignore: TVM has no type hints, so that its mutator is Any to mypy.
@api.mutator
class _UseKernels(api.PyExprMutator):  # type: ignore[misc]
    """One walk over ``main``."""

    def __init__(
        self,
        mod: Any,
        target: CompileTarget,
        packed: bool,
        epilogues: bool,
        stored: panels.Format,
    ) -> None:
        super().__init__(mod)
        self.kernels = Kernels(self.builder_)
        self.target = target
        self.pack, self.epilogues, self.stored = packed, epilogues, stored
        self.main = mod["main"]
        self.graph = Graph(self.main)
        self.values = self.graph.values
        # Old parameter: N, K, and the new ones, of which the second is its scales, if any.
        self.packed: dict[Any, tuple[int, int, list[Any]]] = {}

    def rewrite(self) -> Any:
        inputs = int(self.main.attrs["num_input"]) if self.main.attrs else 0
        width = panel_width(self.target)
        params, widths = list(self.main.params), []
        packable = self._packable() if self.pack else set()
        for index, param in enumerate(params[inputs:], start=inputs):
            widths.append(width if param in packable else 0)
            if param in packable:
                n, k = api.float32_shape(param) or (0, 0)
                shape, name = panels.packed_shape(n, k, width), api.var_name(param)
                params[index] = api.tensor_var(name, shape, self.stored.dtype)
                scales = [api.tensor_var(f"{name}_scales", (n,))] if self.stored.scaled else []
                self.packed[param] = (n, k, [params[index], *scales])
        for old, (_, _, new) in self.packed.items():
            api.remap_var(self, old, new[0])
            params += new[1:]
        body = self.visit_with_new_scope(self.main.body)
        main = relax.Function(params, body, is_pure=self.main.is_pure, attrs=self.main.attrs)
        main = main.with_attrs({PACKED_ATTR: widths, STORED_ATTR: self.stored.name})
        self.builder_.update_func(self.builder_.get().get_global_var("main"), main)
        # A product that is part of a biased one, and its kernel, are no longer used.
        return without_dead(relax.transform.CanonicalizeBindings()(self.builder_.get()))

    def _packable(self) -> set[Any]:
        """Parameters all of whose uses a packed weight can serve."""
        allowed: set[Any] = set()
        refused: set[Any] = set()
        transposed: dict[Any, Any] = {}
        for var, value in self.values.items():
            weight = self._transposed_weight(value)
            if weight is not None:
                transposed[var] = weight
                allowed.add(weight)
                continue
            if self._repeats(value) and value.args[0] in transposed:
                transposed[var] = transposed[value.args[0]]
                continue
            for position, used in enumerate(api.direct_vars(value)):
                served = (
                    api.is_call(value, "relax.matmul")
                    and position == 1
                    and api.float32_shape(value.args[0]) is not None
                )
                if used in transposed and not served:
                    refused.add(transposed[used])
                elif not (self._is_lookup(value) and position == 0):
                    refused.add(used)
        return (allowed - refused) & set(self.main.params)

    def _transposed_weight(self, value: Any) -> Any:
        """The matrix that ``value`` is the transpose of, if it is a parameter's."""
        if not api.is_call(value, "relax.permute_dims"):
            return None
        weight = value.args[0]
        shape = api.float32_shape(weight)
        axes = value.attrs.axes
        plain = axes is None or [int(axis) for axis in axes] == [1, 0]
        return weight if shape is not None and len(shape) == 2 and plain else None

    def _repeats(self, value: Any) -> bool:
        """Whether ``value`` is a matrix once for every sequence of a batch."""
        before = api.float32_shape(value.args[0]) if api.is_call(value, _BROADCAST) else None
        return before is not None and len(before) == 2

    def _is_lookup(self, value: Any) -> bool:
        """Whether ``value`` takes whole rows of a matrix, by a vector of int32."""
        return (
            api.is_call(value, "relax.take")
            and value.attrs.axis is not None
            and int(value.attrs.axis) == 0
            and api.shape_of(value.args[1], "int32") is not None
            and len(api.shape_of(value.args[1], "int32") or ()) == 1
        )

    def visit_call_(self, call: Any) -> Any:
        """The kernel for ``call`` where there is one."""
        replacement = None
        if api.is_call(call, "relax.matmul"):
            replacement = self._linear(call, None)
            if replacement is None:
                replacement = self._matmul(call)
        elif api.is_call(call, "relax.add"):
            replacement = self._linear_with_bias(call)
            if replacement is None:
                replacement = self._linear_with_residual(call)
        elif api.is_call(call, "relax.reshape") and api.float32_shape(call) is not None:
            replacement = self._reshaped(call.args[0], *(api.float32_shape(call) or ()))
        elif self._activation(call) is not None:
            replacement = self._linear_with_activation(call)
        elif self._weight_of(call) in self.packed:
            # Only products read it, and they take the packed weight: nothing is transposed.
            replacement = self.packed[self._weight_of(call)][2][0]
        elif api.is_call(call, "relax.take"):
            replacement = self._gather(call)
        elif api.is_call(call, "relax.nn.layer_norm"):
            replacement = self._layer_norm(call)
        elif api.is_call(call, "relax.nn.softmax"):
            replacement = self._softmax(call)
        return super().visit_call_(call) if replacement is None else replacement

    def _call(self, kernel: Any, args: list[Any], shape: Sequence[int], out: Sequence[int]) -> Any:
        """A call of ``kernel`` that fills ``shape``, seen as ``out``."""
        result = relax.call_tir(kernel, args, api.tensor_type(shape))
        if tuple(out) == tuple(shape):
            return result
        return relax.op.reshape(self.builder_.emit(result), list(out))

    def _reshaped(self, expr: Any, *shape: int) -> Any:
        """The float32 ``expr`` in another shape, in one step: each costs a call when it runs."""
        shown = self.visit_expr(expr)
        while isinstance(shown, relax.Var):
            value = self.builder_.lookup_binding(shown)
            if isinstance(value, relax.Var):
                shown = value
            elif api.is_call(value, "relax.reshape"):
                shown = value.args[0]
            else:
                break
        if api.float32_shape(shown) == shape:
            return shown
        return self.builder_.emit(relax.op.reshape(shown, list(shape)))

    def _weight_of(self, value: Any) -> Any:
        """The matrix that ``value`` is the transpose of, repeated or not."""
        if value is not None and self._repeats(value):
            value = self.values.get(value.args[0])
        return self._transposed_weight(value)

    def _activation(self, call: Any) -> str | None:
        """The key of ``linear.ACTIVATIONS`` that ``call`` is."""
        return next((n for n in linear.ACTIVATIONS if api.is_call(call, f"relax.nn.{n}")), None)

    def _linear(
        self,
        call: Any,
        bias: Any,
        out: tuple[int, ...] | None = None,
        activation: str | None = None,
        residual: Any = None,
    ) -> Any:
        weight = self._weight_of(self.values.get(call.args[1]))
        shape = api.float32_shape(call.args[0])
        if weight not in self.packed or shape is None:
            return None
        n, k, packed = self.packed[weight]
        m = math.prod(shape[:-1])
        kernel = self.kernels.var(
            linear.linear,
            *(m, n, k),
            bias=bias is not None,
            target=self.target,
            activation=activation,
            residual=residual is not None,
            stored=self.stored,
        )
        args = [self._reshaped(call.args[0], m, k), *packed]
        if bias is not None:
            args.append(self.visit_expr(bias))
        if residual is not None:
            args.append(self._reshaped(residual, m, n))
        return self._call(kernel, args, (m, n), out or (*shape[:-1], n))

    def _biased(self, total: Any) -> tuple[Any, Any] | None:
        """The product and the bias (N,) whose sum the call ``total`` is."""
        for bias, product in (total.args, reversed(total.args)):
            value = self.graph.call(product, "relax.matmul")
            shape = api.float32_shape(product)
            if value is not None and shape is not None and api.float32_shape(bias) == shape[-1:]:
                return value, bias
        return None

    def _linear_with_bias(self, call: Any) -> Any:
        parts = self._biased(call)
        return None if parts is None else self._linear(*parts)

    def _alone(self, var: Any) -> tuple[Any, Any] | None:
        """As ``_biased``, for a sum that nobody reads but the reader of ``var``."""
        while self.graph.is_read_once(var):
            value = self.graph.call(var, "relax.reshape", "relax.add")
            if value is None:
                return None
            if api.is_call(value, "relax.add"):
                return self._biased(value)
            var = value.args[0]
        return None

    def _linear_with_activation(self, call: Any) -> Any:
        parts = self._alone(call.args[0]) if self.epilogues else None
        shape = api.float32_shape(call.args[0])
        if parts is None or shape is None:
            return None
        return self._linear(*parts, shape, activation=self._activation(call))

    def _linear_with_residual(self, call: Any) -> Any:
        shape = api.float32_shape(call.args[0])
        if not self.epilogues or shape is None or shape != api.float32_shape(call.args[1]):
            return None
        for residual, total in (call.args, reversed(call.args)):
            parts = self._alone(total)
            if parts is not None:
                return self._linear(*parts, shape, residual=residual)
        return None

    def _matmul(self, call: Any) -> Any:
        left, right = (api.float32_shape(arg) for arg in call.args)
        if left is None or right is None or len(left) < 2 or left[:-2] != right[:-2]:
            return None
        (m, k), n, g = left[-2:], right[-1], math.prod(left[:-2])
        kernel = self.kernels.var(matmul.matmul, g, m, k, n, self.target)
        args = [self._reshaped(call.args[0], g, m, k), self._reshaped(call.args[1], g, k, n)]
        return self._call(kernel, args, (g, m, n), (*left[:-1], n))

    def _gather(self, call: Any) -> Any:
        if call.args[0] not in self.packed or not self._is_lookup(call):
            return None
        n, k, packed = self.packed[call.args[0]]
        (count,) = api.shape_of(call.args[1], "int32") or (0,)
        width = panel_width(self.target)
        kernel = self.kernels.var(linear.gather, count, n, k, width, self.stored)
        args = [*packed, self.visit_expr(call.args[1])]
        return self._call(kernel, args, (count, k), (count, k))

    def _layer_norm(self, call: Any) -> Any:
        shape, attrs = api.float32_shape(call.args[0]), call.attrs
        if shape is None or not (attrs.center and attrs.scale):
            return None
        if [int(axis) for axis in attrs.axes] not in ([-1], [len(shape) - 1]):
            return None
        m, n = math.prod(shape[:-1]), shape[-1]
        kernel = self.kernels.var(rows.layer_norm, m, n, float(attrs.epsilon), self.target)
        args = [self._reshaped(call.args[0], m, n), *map(self.visit_expr, call.args[1:])]
        return self._call(kernel, args, (m, n), shape)

    def _softmax(self, call: Any) -> Any:
        shape = api.float32_shape(call.args[0])
        if shape is None or int(call.attrs.axis) not in (-1, len(shape) - 1):
            return None
        m, n = math.prod(shape[:-1]), shape[-1]
        kernel = self.kernels.var(rows.softmax, m, n, self.target)
        return self._call(kernel, [self._reshaped(call.args[0], m, n)], (m, n), shape)
