"""A model's kernels as tasks for a search, and what the search found put in their place.

A task is a kernel of this project's that has a plain definition, or a leftover that computes: what
TVM made and nobody has scheduled. It is found again by the structural hash of its plain form, in
any model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.job.compile import api, names
from bench.job.compile.graph import Graph
from bench.job.compile.schedules import leftover, plain
from bench.job.compile.target import CompileTarget

# A schedule as MetaSchedule's database keeps it: instructions and decisions.
TraceJson = Any


@dataclass(frozen=True)
class Task:
    """``mod`` is what is searched for, ``hand`` the kernel that runs without a search.

    ``weight`` counts its calls in one call of the model, ``flops`` what each of them does.
    """

    key: str
    name: str
    product: bool
    flops: float
    weight: int
    mod: Any
    hand: Any


def extract(mod: Any, target: CompileTarget) -> tuple[list[Task], list[str]]:
    """The tasks of a module whose operators are kernels by now, each once; and what is none.

    Returns:
        The tasks, in the order that the module has them, and the names of the other kernels.
    """
    calls: Counter[str] = Counter(
        str(value.args[0].name_hint)
        for value in Graph(mod["main"]).values.values()
        if api.is_call(value, "relax.call_tir")
    )
    found: dict[str, Task] = {}
    kept = []
    for var, func in _kernels(mod):
        weight = calls[str(var.name_hint)]
        form = _plain(func)
        if weight == 0:
            continue
        workload = None if form is None else _workload(form)
        flops = 0.0 if workload is None else float(names.find("estimate_tir_flops")(workload))
        if flops == 0:  # it moves data at most, or is a view: a schedule would make it a copy
            kept.append(str(var.name_hint))
            continue
        key = _key(workload)
        before = found[key].weight if key in found else 0
        found[key] = Task(
            key,
            str(var.name_hint),
            plain.is_product(func),
            flops,
            before + weight,
            workload,
            func if form is not func else leftover.scheduled(func, target),
        )
    return list(found.values()), kept


def use_tuned(mod: Any, tuned: Mapping[str, TraceJson]) -> Any:
    """``mod`` with the kernels replaced that ``tuned`` has a schedule for, by their keys."""
    for var, func in _kernels(mod):
        form = _plain(func)
        if form is None:
            continue
        workload = _workload(form)
        trace = tuned.get(_key(workload))
        if trace is not None:
            mod.update_func(var, scheduled(workload, trace, func))
    return mod


def scheduled(workload: Any, trace: TraceJson, instead_of: Any) -> Any:
    """``workload`` by the schedule ``trace``, with the attributes of the kernel that it replaces.

    Raises:
        api.ScheduleError: the trace is of another workload.
    """
    sch = api.Schedule(workload)
    names.find("Trace").apply_json_to_schedule(json.loads(json.dumps(trace)), sch)
    func = sch.mod["main"].without_attr("global_symbol").with_attr("bench.name", "tuned")
    return func.with_attrs(instead_of.attrs) if instead_of.attrs else func


def _kernels(mod: Any) -> list[tuple[Any, Any]]:
    return [
        (var, func) for var, func in mod.functions_items() if isinstance(func, api.tirx.PrimFunc)
    ]


def _plain(func: Any) -> Any:
    """What a search for ``func`` would begin with; None where nothing can be searched for."""
    form = plain.of(func)
    if form is not None:
        return form
    buffers = names.buffers(func)
    extents = [extent for buffer in buffers for extent in buffer.shape]
    fixed = buffers and all(isinstance(extent, api.tirx.IntImm) for extent in extents)
    return func if fixed and api.is_unscheduled(func) else None


def _workload(form: Any) -> Any:
    """A TensorIR function as the module that MetaSchedule takes."""
    kept = api.tvm.ir.IRModule({})
    bare = form.without_attr("op_pattern") if form.attrs and "op_pattern" in form.attrs else form
    kept["main"] = bare.with_attr("global_symbol", "main").with_attr(names.NOALIAS, True)
    return kept


def _key(workload: Any) -> str:
    return str(names.find("meta_schedule").utils.shash2hex(workload))
