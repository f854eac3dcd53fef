"""What TVM's importer turns into something else, written so that it comes out right.

Each repair works on a ``torch.export`` graph that has been decomposed, before the import. A wrong
import is silent: the module compiles and gives other numbers, or garbage that changes between
calls. docs/import.md lists what is repaired, and tests/unit/test_import_check.py shows each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

aten = torch.ops.aten

# Operators whose arguments PyTorch promotes to a floating type; TVM rounds the number instead.
_PROMOTING = frozenset(
    [
        *("add", "sub", "rsub", "mul", "div", "pow", "remainder", "fmod", "maximum", "minimum"),
        *("clamp", "clamp_min", "clamp_max", "eq", "ne", "lt", "le", "gt", "ge"),
        *("exp", "expm1", "log", "log1p", "log2", "sin", "cos", "tanh", "sigmoid", "erf"),
        *("sqrt", "rsqrt", "reciprocal"),
    ]
)
_HALVES = (torch.float16, torch.bfloat16)
# Of 16-bit numbers TVM imports these products as float32 (and then fails at what follows).
_PRODUCTS = (aten.mm.default, aten.bmm.default, aten.matmul.default)
# And these it sums up in 16 bits.
_SUMS = (
    *(aten._softmax.default, aten._log_softmax.default),
    *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim),
)
_SCALED = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, aten.add.Scalar, aten.sub.Scalar)
_TRANSPARENT = (aten.clone.default, aten.lift_fresh_copy.default, aten.detach.default)


def repair(exported: Any) -> list[str]:
    """Rewrite ``exported``'s graph in place; what was done, a line for every node changed.

    The graph alone, which is what is imported: ``graph_module.code`` stays what it was.

    Args:
        exported: a decomposed ``torch.export.ExportedProgram`` of constant shapes.
    """
    done = []
    graph = exported.graph_module.graph
    editor = _Editor(graph)
    known = constants(exported)
    for node in list(graph.nodes):
        if node.op == "call_function":
            done += [f"{name(node)}: {what}" for what in _repaired(editor, node, known)]
    graph.lint()
    return done


def constants(exported: Any) -> dict[str, torch.Tensor]:
    """The tensors of the program that no caller gives, by the name of their placeholder."""
    held = {**exported.state_dict, **exported.constants, **dict(exported.named_buffers())}
    found = {spec.arg.name: held.get(spec.target) for spec in exported.graph_signature.input_specs}
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}


def name(node: Any) -> str:
    """An operator as TVM's importer calls it: "add.Tensor"."""
    return str(getattr(node.target, "__name__", node.target))


def value(node: Any) -> Any:
    """What an argument is: a node's fake tensor, or the number itself."""
    return node.meta.get("val") if isinstance(node, fx.Node) else node


def _repaired(editor: _Editor, node: Any, known: dict[str, torch.Tensor]) -> Iterator[str]:
    editor.before(node)
    target = node.target
    if target in _SCALED and node.kwargs.get("alpha", 1) != 1:
        alpha = node.kwargs["alpha"]
        if target in (aten.add.Scalar, aten.sub.Scalar):
            node.args = (node.args[0], node.args[1] * alpha)
        else:
            node.args = (node.args[0], editor.call(aten.mul.Scalar, node.args[1], alpha))
        node.kwargs = {}
        yield "alpha multiplied in"
    if target is aten.select.int and node.args[2] < 0:
        x, dim, index = node.args
        node.args = (x, dim, index + value(x).shape[dim])
        yield "a negative index counted from the start"
    if target is aten.index.Tensor:
        yield from _indexed(editor, node, known)
    if target in (aten.index_put.default, aten.index_put_.default):
        shape = value(node.args[0]).shape
        indices = _counted(editor, node.args[1], shape, known)
        if indices != list(node.args[1]):
            node.args = (node.args[0], indices, *node.args[2:])
            yield "negative indices counted from the start"
    if target is aten.take.default and not _from_zero(node.args[1], known):
        x, index = node.args
        node.args = (x, editor.call(aten.remainder.Scalar, index, value(x).numel()))
        yield "negative indices counted from the start"
    if target in (aten.native_layer_norm.default, aten.native_group_norm.default):
        yield from _normed(editor, node)
    if target is aten.elu.default and len(node.args) > 2 and node.args[2] != 1:
        x, alpha, scale, *rest = node.args
        if not rest or rest[0] == 1:
            node.args = (x, alpha)
            editor.scale_after(node, scale)
            yield "the scale multiplied in"
    if target in (aten.full.default, aten.full_like.default) and not math.isfinite(node.args[1]):
        node.args = (node.args[0], (number := node.args[1]) and 1.0, *node.args[2:])
        editor.scale_after(node, number)
        yield f"{number} made of a finite number"
    whole = target is aten.div.Tensor_mode and isinstance(node.args[1], int)
    if whole and not value(node.args[0]).is_floating_point():
        dtype = value(node.args[0]).dtype
        divisor = editor.call(aten.full.default, [], node.args[1], dtype=dtype)
        node.args = (node.args[0], divisor)
        yield "the divisor made a tensor of the dividend's type"
    if target is aten.cumsum.default and value(node.args[0]).dtype == torch.bool:
        counted = editor.call(aten._to_copy.default, node.args[0], dtype=torch.int64)
        node.args = (counted, *node.args[1:])
        yield "truth values made integers"
    if name(node).partition(".")[0] in _PROMOTING:
        yield from _promoted(editor, node)
    if isinstance(value(node), torch.Tensor) and value(node).dtype in _HALVES:
        yield from _summed(editor, node)


def _indexed(editor: _Editor, node: Any, known: dict[str, torch.Tensor]) -> Iterator[str]:
    """Indices that count from the end, and several of them behind a whole dimension."""
    x, given = node.args
    indices = _counted(editor, given, value(x).shape, known)
    if indices != list(given):
        node.args = (x, indices)
        yield "negative indices counted from the start"
    at = [dim for dim, index in enumerate(indices) if index is not None]
    if len(at) < 2 or len(at) == len(indices) or at[-1] - at[0] != len(at) - 1:
        return  # ``wrongly`` refuses what is left of these
    if any(value(indices[dim]).dtype == torch.bool for dim in at):
        return
    shape = list(value(x).shape)
    linear = indices[at[0]]
    for dim in at[1:]:
        linear = editor.call(aten.mul.Scalar, linear, shape[dim])
        linear = editor.call(aten.add.Tensor, linear, indices[dim])
    merged = [*shape[: at[0]], math.prod(shape[dim] for dim in at), *shape[at[-1] + 1 :]]
    flat = editor.call(aten.reshape.default, x, merged)
    node.args = (flat, [*[None] * at[0], linear])
    yield "several indices made one"


def _counted(
    editor: _Editor, indices: Any, shape: Any, known: dict[str, torch.Tensor]
) -> list[Any]:
    """Indices counted from the start: TVM takes a negative one as an address before the data."""
    counted = []
    for dim, index in enumerate(indices):
        wraps = index is not None and value(index).dtype != torch.bool
        if wraps and not _from_zero(index, known):
            index = editor.call(aten.remainder.Scalar, index, shape[dim])
        counted.append(index)
    return counted


def _from_zero(index: Any, known: dict[str, torch.Tensor]) -> bool:
    """Whether an index is certain to hold nothing negative."""
    if index.target in _TRANSPARENT:
        return _from_zero(index.args[0], known)
    if index.target is aten.arange.start_step:
        return all(isinstance(bound, int) and bound >= 0 for bound in index.args[:2])
    if index.target is aten.remainder.Scalar:
        return bool(index.args[1] > 0)
    if index.target in (aten.mul.Scalar, aten.add.Tensor):
        numbers = [arg for arg in index.args if not isinstance(arg, fx.Node)]
        nodes = [arg for arg in index.args if isinstance(arg, fx.Node)]
        return min(numbers, default=0) >= 0 and all(_from_zero(one, known) for one in nodes)
    held = known.get(index.name) if index.op == "placeholder" else None
    return held is not None and (held.numel() == 0 or int(held.min()) >= 0)


def _normed(editor: _Editor, node: Any) -> Iterator[str]:
    """A weight or bias that is None as the ones or zeros that it stands for."""
    layer = node.target is aten.native_layer_norm.default
    shape = list(node.args[1]) if layer else [node.args[4]]
    args = list(node.args)
    for place, number in ((2, 1.0), (3, 0.0)) if layer else ((1, 1.0), (2, 0.0)):
        if args[place] is None:
            dtype = value(node.args[0]).dtype
            args[place] = editor.call(aten.full.default, shape, number, dtype=dtype)
            yield "a weight or bias of None made a tensor"
    node.args = tuple(args)


def _promoted(editor: _Editor, node: Any) -> Iterator[str]:
    """Integers beside a fraction as fractions, truth values beside an integer as integers.

    TVM makes the number of the tensor's type instead: 0.5 becomes 0.
    """
    operands = [arg for arg in node.args if isinstance(value(arg), (torch.Tensor, int, float))]
    tensors = [arg for arg in operands if isinstance(value(arg), torch.Tensor)]
    if not tensors or any(value(arg).is_floating_point() for arg in tensors):
        return
    dtype = value(node).dtype
    if dtype == torch.bool and len(operands) == 2:  # a comparison
        dtype = torch.result_type(value(operands[0]), value(operands[1]))
    truths = all(value(arg).dtype == torch.bool for arg in tensors)
    if dtype.is_floating_point or (truths and dtype != torch.bool):
        cast = {arg: editor.call(aten._to_copy.default, arg, dtype=dtype) for arg in tensors}
        node.args = tuple(cast.get(arg, arg) if isinstance(arg, fx.Node) else arg
                          for arg in node.args)  # fmt: skip
        yield f"arguments made {dtype}"


def _summed(editor: _Editor, node: Any) -> Iterator[str]:
    """Products, sums, means and softmax of 16-bit numbers in float32, rounded once as in PyTorch.

    The factors of a product stay what they are, for the GPU's tensor cores.
    """
    if node.target is aten.addmm.default or node.target in _SUMS:
        given = node.args[0]
        if value(given).dtype != value(node).dtype:  # it was asked to round before it sums up
            given = editor.call(aten._to_copy.default, given, dtype=value(node).dtype)
        wide = editor.call(aten._to_copy.default, given, dtype=torch.float32)
        node.args = (wide, *node.args[1:])
        node.kwargs = {key: one for key, one in node.kwargs.items() if key != "dtype"}
    elif node.target not in _PRODUCTS:
        return
    editor.round_after(node)
    yield "summed in float32, then rounded"


class _Editor:
    """New nodes of a graph, each of which knows its shape and type."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._node: Any | None = None
        self._mode: Any = detect_fake_mode([n.meta.get("val") for n in graph.nodes])

    def before(self, node: Any) -> None:
        """From now on put nodes before this one, as of the same line of the source."""
        self._node = node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new call of ``target``."""
        assert self._node is not None
        with self._graph.inserting_before(self._node):
            made = self._graph.call_function(target, args, kwargs)
        made.meta["stack_trace"] = self._node.meta.get("stack_trace")
        with self._mode:
            made.meta["val"] = target(*map(value, args), **kwargs)
        return made

    def round_after(self, node: Any) -> None:
        """Have ``node`` give float32, and what uses it a copy in the type that it had."""
        with self._graph.inserting_after(node):
            made = self._graph.call_function(
                aten._to_copy.default, (node,), {"dtype": value(node).dtype}
            )
        made.meta.update(node.meta)
        with self._mode:
            node.meta["val"] = value(node).to(torch.float32)
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)

    def scale_after(self, node: Any, factor: float) -> None:
        """Have what uses ``node`` use it times ``factor``."""
        with self._graph.inserting_after(node):
            made = self._graph.call_function(aten.mul.Tensor, (node, factor))
        made.meta.update(node.meta)
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
