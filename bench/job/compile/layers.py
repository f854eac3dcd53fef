"""A model's identical layers exported as one: what one becomes is put in the place of each.

torch.export traces every layer of a model, and taking what it found apart traces it once more:
together that is most of what another layer costs a compilation. Here a layer is an operator of
its own while the model is exported, one that says only what shapes come out. Then every call of it
is replaced by the nodes of the one layer that was exported by itself, so that the program in the
end is the one that torch.export would have made, and is checked and imported as that. What counts
is its graph: Python code for it would be written for all layers and is run by nobody.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch._guards import detect_fake_mode
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from bench.job.repeated import Repeated

_LEAST = 3  # layers from which on it is quicker: one is exported by itself
# What every module has, and no setting of its own; but ``training`` is one.
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

# The ignores, here and below: torch.library has no type hints. They hide no other error.
_library: Any = torch.library.Library("gpt_frontend", "DEF")  # type: ignore[no-untyped-call]
_library.define("layer(Tensor[] inputs, int index, int key) -> Tensor[]")
_layers: dict[int, _Layer] = {}  # those that a program is being exported with
_keys = itertools.count()


def export(module: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """``module`` as a decomposed ``torch.export.ExportedProgram`` for the shapes of ``example``.

    Layers are identical where they say so (``Repeated``), lie in one ``nn.ModuleList``, are all of
    the same type and settings, their parameters of the same shapes and types, and are called with
    tensors of the same shapes and types. Of a model that has none such everything is traced.
    """
    stack = _called(module, example)
    if stack is not None:
        with contextlib.suppress(_UnlikeError):
            return _put_in_place(module, example, _alone(*stack))
    return _exported(module, example)


class _UnlikeError(Exception):
    """It turns out that one layer cannot stand for all."""


def _exported(module: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """What torch.export makes of all of ``module``; a parameter of two names is one input."""
    program = torch.export.export(module, example).run_decompositions()
    graph, specs = program.graph_module.graph, program.graph_signature.input_specs
    held = dict(module.named_parameters(remove_duplicate=False))
    first: dict[int, Any] = {}
    for spec, node in zip(list(specs), graph.find_nodes(op="placeholder"), strict=True):
        if spec.kind is not InputKind.PARAMETER:
            continue
        kept = first.setdefault(id(held[spec.target]), node)
        if kept is not node:
            node.replace_all_uses_with(kept)
            graph.erase_node(node)
            specs.remove(spec)
    return program


# --- which layers are identical ---------------------------------------------------------------


class _Reached(Exception):  # no error: what was looked for
    """The first layer is about to be called."""


def _called(
    module: nn.Module, example: tuple[torch.Tensor, ...]
) -> tuple[list[nn.Module], tuple[torch.Tensor, ...]] | None:
    """The first list of identical layers that ``module`` calls, and what the first layer takes."""
    stacks = [
        list(one.children())
        for one in module.modules()
        if isinstance(one, nn.ModuleList) and _alike(list(one.children()))
    ]
    found: list[tuple[list[nn.Module], tuple[Any, ...], dict[str, Any]]] = []

    def reached(stack: list[nn.Module]) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append((stack, args, kwargs))
            raise _Reached

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for stack in stacks:
            handle = stack[0].register_forward_pre_hook(reached(stack), with_kwargs=True)
            hooks.callback(handle.remove)
        with contextlib.suppress(_Reached):
            if stacks:
                module(*example)
    if not found:
        return None
    stack, args, kwargs = found[0]
    tensors = all(isinstance(arg, torch.Tensor) for arg in args)
    # torch.export makes one input of a tensor that is given twice.
    distinct = len(set(map(id, args))) == len(args)
    return (stack, args) if args and not kwargs and tensors and distinct else None


def _alike(layers: Sequence[nn.Module]) -> bool:
    """Whether these are many, and differ in nothing but the numbers in their parameters."""
    return len(layers) >= _LEAST and all(
        isinstance(layer, Repeated) and _same(layers[0], layer) for layer in layers
    )


def _same(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other) or _described(one) != _described(other):
        return False
    if any(getattr(module, hooks) for module in (one, other) for hooks in _HOOKS):
        return False
    if any(True for module in (one, other) for _ in module.buffers(recurse=False)):
        return False
    try:
        if _settings(one) != _settings(other):
            return False
    except (RuntimeError, ValueError):  # of tensors and arrays, which answer by the element
        return False
    children = itertools.zip_longest(one.named_children(), other.named_children())
    return all(
        left and right and left[0] == right[0] and _same(left[1], right[1])
        for left, right in children
    )


def _described(module: nn.Module) -> list[tuple[Any, ...]]:
    """Its parameters by name: the form of each, and which of them it is, for some may be tied."""
    named = list(module.named_parameters(remove_duplicate=False))
    first = {id(param): name for name, param in reversed(named)}
    return [(name, *_form(one), one.requires_grad, first[id(one)]) for name, one in named]


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _INTERNAL}


# --- one layer by itself ----------------------------------------------------------------------


class _Hidden(dict[str, Any]):
    """No parameters, in the place of those of a layer: asking for one by name says so."""

    def __init__(self, held: Mapping[str, Any]) -> None:
        super().__init__()
        self._names = frozenset(held)

    def __contains__(self, name: object) -> bool:
        if name in self._names:
            raise _UnlikeError(f"a layer's {name} is used outside of the layer")
        return False


@dataclass(frozen=True)
class _Layer:
    """What ``layers`` all are.

    ``program`` takes its parameters and ``inputs``; what it makes are ``outputs``, which are, as
    pytree has it, ``structure``.
    """

    layers: Sequence[nn.Module]
    inputs: tuple[torch.Tensor, ...]
    program: Any
    outputs: list[torch.Tensor]
    structure: Any

    @contextlib.contextmanager
    def called(self) -> Iterator[None]:
        """Within, calling one of the layers is calling the operator, and none has parameters."""
        key = next(_keys)
        _layers[key] = self
        try:
            with contextlib.ExitStack() as patches:
                for index, layer in enumerate(self.layers):
                    forward = self._operator(index, key)
                    patches.enter_context(mock.patch.object(layer, "forward", forward))
                # Each parameter would be an input of its own, and cost what an operator costs.
                for part in {part for layer in self.layers for part in layer.modules()}:
                    hidden = _Hidden(part._parameters)
                    patches.enter_context(mock.patch.object(part, "_parameters", hidden))
                yield
        finally:
            del _layers[key]

    def _operator(self, index: int, key: int) -> Callable[..., Any]:
        def forward(*args: torch.Tensor, **named: Any) -> Any:
            forms = [_form(arg) for arg in args]
            if named or forms != [_form(wanted) for wanted in self.inputs]:
                raise _UnlikeError(f"layer {index} takes {forms} and {list(named)}")
            outputs = torch.ops.gpt_frontend.layer(list(args), index, key)
            return pytree.tree_unflatten(outputs, self.structure)

        return forward


@torch.library.register_fake("gpt_frontend::layer", lib=_library)  # type: ignore[untyped-decorator]
def _shapes(inputs: list[torch.Tensor], index: int, key: int) -> list[torch.Tensor]:
    return [_like(output) for output in _layers[key].outputs]


def _alone(layers: list[nn.Module], inputs: tuple[torch.Tensor, ...]) -> _Layer:
    """The first of ``layers``, exported.

    Raises:
        _UnlikeError: it does more than make tensors of tensors.
    """
    program = _exported(layers[0], inputs)
    signature = program.graph_signature
    given = {spec.kind for spec in signature.input_specs}
    made = {spec.kind for spec in signature.output_specs}
    if not given <= {InputKind.PARAMETER, InputKind.USER_INPUT} or made != {OutputKind.USER_OUTPUT}:
        raise _UnlikeError(f"it takes {given} and makes {made}")
    outputs = [_value(node) for node in program.graph_module.graph.output_node().args[0]]
    if not all(isinstance(output, torch.Tensor) for output in outputs):
        raise _UnlikeError("it makes what is no tensor")
    return _Layer(layers, inputs, program, outputs, program.call_spec.out_spec)


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )


def _value(node: Any) -> Any:
    return node.meta.get("val") if isinstance(node, fx.Node) else node


# --- and put in its places --------------------------------------------------------------------


def _put_in_place(module: nn.Module, example: tuple[torch.Tensor, ...], layer: _Layer) -> Any:
    """``module`` exported with the operator, and every call of that replaced by ``layer``."""
    with layer.called():
        program = _exported(module, example)
    graph: fx.Graph = program.graph_module.graph
    mode: Any = detect_fake_mode([node.meta.get("val") for node in graph.nodes])
    with mode:  # the layer's own values are of another mode, and may not meet these
        params = _parameters(program, module)
        values = {
            node: pytree.tree_map_only(torch.Tensor, _like, node.meta.get("val"))
            for node in layer.program.graph_module.graph.nodes
        }
    for node in list(graph.nodes):
        if node.target is torch.ops.gpt_frontend.layer.default:
            inputs, index, _key = node.args
            held = layer.layers[index].named_parameters()
            given = [*inputs], {name: params[id(param)] for name, param in held}
            outputs = _copied(graph, node, layer.program, given, values)
            for item in list(node.users):
                made = outputs[item.args[1]]
                item.replace_all_uses_with(made)
                program.graph_signature.replace_all_uses(item.name, made.name)
                graph.erase_node(item)
            graph.erase_node(node)
    graph.lint()
    return program


def _parameters(program: Any, module: nn.Module) -> dict[int, fx.Node]:
    """The inputs that are parameters of ``module``, by the tensor's ``id``; those that it lacks
    are added, so that their order is the module's."""
    graph, signature = program.graph_module.graph, program.graph_signature
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    specs = {spec.arg.name: spec for spec in signature.input_specs}
    held = dict(module.named_parameters(remove_duplicate=False))
    found = {
        id(held[spec.target]): nodes[name]
        for name, spec in specs.items()
        if spec.kind is InputKind.PARAMETER
    }
    first, before = next(iter(graph.nodes)), None
    for target, param in module.named_parameters():
        if id(param) not in found:
            with graph.inserting_after(before) if before else graph.inserting_before(first):
                node = graph.placeholder("p_" + target.replace(".", "_"))
            node.meta["val"] = _like(param)
            argument = TensorArgument(name=node.name)
            specs[node.name] = InputSpec(InputKind.PARAMETER, argument, target)
            program.state_dict[target] = param
            found[id(param)] = node
        before = found[id(param)]
    signature.input_specs[:] = [
        specs[node.name] for node in graph.nodes if node.op == "placeholder"
    ]
    return found


def _copied(
    graph: fx.Graph,
    at: fx.Node,
    program: Any,
    given: tuple[list[Any], dict[str, Any]],
    values: dict[Any, Any],
) -> list[Any]:
    """``program``'s nodes before the node ``at``, for inputs and parameters; what they make."""
    inputs, params = iter(given[0]), given[1]
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    here: dict[Any, Any] = {}
    made: list[Any] = []
    with graph.inserting_before(at):
        for node in program.graph_module.graph.nodes:
            if node.op == "placeholder":
                spec = specs[node.name]
                own = spec.kind is InputKind.PARAMETER
                here[node] = params[spec.target] if own else next(inputs)
            elif node.op == "output":
                made = [here[output] for output in node.args[0]]
            else:
                here[node] = graph.node_copy(node, here.__getitem__)
                here[node].meta["val"] = values[node]
    return made
