"""The import check: what TVM cannot take, all of it at once, before anything is compiled.

What TVM's importer has no rule for stops it; what it has a wrong rule for does not, and that is
the worse. The wrong ones that can be written otherwise are (``repairs``), the rest is refused here
by name, with the line of the model where it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import fx

from bench.errors import UsageFault
from bench.job.compile import api, names, repairs
from bench.job.compile.repairs import aten, name, value

_PRODUCTS = (aten.mm.default, aten.bmm.default, aten.matmul.default)
_RANDOM = ("rand", "randn", "randint", "bernoulli", "multinomial", "normal", "exponential")
# Of an operator, by its name without the overload: what to write for it.
_INSTEAD = {
    "amax": "x.max(dim).values for x.amax(dim)",
    "amin": "x.min(dim).values for x.amin(dim)",
    "logsumexp": "m + (x - m).exp().sum(dim).log(), where m is x.max(dim), for x.logsumexp(dim)",
    "any": "x.any(dim) for x.any()",
    "all": "~(~x).any(dim) for x.all(dim)",
    "prod": "x.cumprod(dim)[..., -1] for x.prod(dim)",
    "unfold": "slices, joined by torch.stack, for x.unfold(dim, size, step)",
    "embedding_renorm": "nn.Embedding without max_norm",
    "view_as_complex": "cosines and sines for a rotation of complex numbers",
    "polar": "cosines and sines for a rotation of complex numbers",
}


def check(exported: Any, example: Sequence[torch.Tensor]) -> list[str]:
    """Make a decomposed program fit for TVM, or refuse it.

    Args:
        exported: the ``torch.export.ExportedProgram``; its graph is rewritten in place.
        example: the inputs that it was exported with.

    Returns:
        What was rewritten, a line each.

    Raises:
        UsageFault: TVM has no rule for an operator, or a wrong one that cannot be rewritten; all
            of them are named, with the line of the model.
    """
    require_distinct(example)
    done = repairs.repair(exported)
    nodes = [node for node in exported.graph_module.graph.nodes if node.op == "call_function"]
    known = names.importable_operators()
    missing = [node for node in nodes if name(node) not in known]
    wrong = [(node, why) for node in nodes if (why := _wrong(node)) is not None]
    said = []
    if missing:
        said.append(f"it has no rule for {_listed(missing)}")
    said += [f"it gets {name(node)} wrong{_where(node)}: {why}" for node, why in wrong]
    if said:
        raise UsageFault(
            f"TVM {api.VERSION} cannot import the model: {'; '.join(said)}",
            hint=_hint([*missing, *(node for node, _ in wrong)]),
        )
    return done


def require_distinct(example: Sequence[torch.Tensor]) -> None:
    """Refuse one tensor given as two inputs: torch.export makes them one for good.

    Raises:
        UsageFault: it is.
    """
    for later, tensor in enumerate(example):
        for earlier in range(later):
            if example[earlier] is tensor:
                raise UsageFault(
                    f"inputs {earlier} and {later} of the example are the same tensor: compiled "
                    "so, one of them would be ignored for good",
                    hint="give a copy of it: tensor.clone()",
                )


def failure(error: BaseException) -> UsageFault:
    """What TVM's importer raised, with the operator that it was at."""
    node, frames = None, error.__traceback__
    while frames is not None:
        local = frames.tb_frame.f_locals.get("node")
        node = local if isinstance(local, fx.Node) else node
        frames = frames.tb_next
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    at = f" at {name(node)}{_where(node)}" if node is not None else ""
    return UsageFault(
        f"TVM {api.VERSION} cannot import the model: its importer fails{at}: "
        f"{lines[0] if lines else type(error).__name__}",
        hint=_hint([node] if node is not None else []),
    )


def _wrong(node: Any) -> str | None:
    """Why TVM would get this operator wrong; None where it gets it right."""
    overload = name(node)
    if overload.partition(".")[0] in _RANDOM:
        return "it draws random numbers, and a compiled model would draw others"
    training = node.target in (aten.native_dropout.default, aten.dropout.default)
    if training and (len(node.args) < 3 or node.args[2]):
        return "it drops nothing; call model.eval() first"
    if overload.startswith("pow.") and not value(node).is_floating_point():
        return "it has powers of fractions only; multiply, or x.float() ** n"
    if node.target in _PRODUCTS and value(node).dtype != torch.float32:
        return f"the product of {value(node).dtype} comes out as float32"
    if node.target is aten.elu.default and len(node.args) > 2:
        return "input_scale is ignored"
    if node.target is aten.index.Tensor:
        indices = list(node.args[1])
        given = [index for index in indices if index is not None]
        if any(value(index).dtype == torch.bool for index in given):
            return "a mask picks as many elements as it happens to; use torch.where"
        if len(given) > 1 and len(given) < len(indices):
            return "a whole dimension lies between the indices; index one dimension at a time"
    return None


def _listed(nodes: Sequence[fx.Node]) -> str:
    """Operators by name, each with how often and where first."""
    counts = Counter(map(name, nodes))
    first = {name(node): node for node in reversed(nodes)}
    return ", ".join(
        overload + (f" ({count} times)" if count > 1 else "") + _where(first[overload])
        for overload, count in counts.items()
    )


def _where(node: Any) -> str:
    """The line of the model's source that a node comes from, where it is known."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    if not lines:
        return ""
    file, line = lines[-1]
    return f" [{PurePath(file).name}:{line}]"


def _hint(nodes: Sequence[fx.Node]) -> str:
    short = dict.fromkeys(name(node).partition(".")[0] for node in nodes)
    instead = list(dict.fromkeys(_INSTEAD[one] for one in short if one in _INSTEAD))
    if instead:
        return f"write {'; '.join(instead)}"
    return "write the model with other operators of PyTorch; docs/import.md has what works"
