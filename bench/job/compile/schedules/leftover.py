"""Every kernel that has no schedule of its own: inlined, then parallel and vectorised."""

from __future__ import annotations

import math
from typing import Any

from bench.job.compile import api
from bench.job.compile.target import CompileTarget

# Below this many elements, handing work to threads costs more than it saves.
_SERIAL_ELEMENTS = 4096


def schedule_leftovers(mod: Any, target: CompileTarget) -> Any:
    """``mod`` with every kernel of TVM's own making scheduled."""
    updated = {
        name: scheduled(func, target)
        for name, func in mod.functions_items()
        if api.is_unscheduled(func)
    }
    for name, func in updated.items():
        mod.update_func(name, func)
    return mod


def scheduled(func: Any, target: CompileTarget) -> Any:
    """A kernel of TVM's own making, scheduled."""
    sch = api.Schedule(func)
    for block in api.child_blocks(sch)[:-1]:
        try:
            sch.compute_inline(block)
        except api.ScheduleError:  # it reduces, or something reads it that cannot take it in
            continue
    for block in api.child_blocks(sch):
        _spread(sch, block, target)
    return sch.mod["main"].with_attrs(func.attrs) if func.attrs else sch.mod["main"]


def _spread(sch: Any, block: Any, target: CompileTarget) -> None:
    """One block: the outer loops shared among threads, the innermost one vectorised."""
    loops = sch.get_loops(block)
    kinds = api.iter_kinds(sch, block)
    extents = [api.extent(sch, loop) for loop in loops]
    sizes = [size for size in extents if size is not None]
    if not loops or len(kinds) != len(loops) or len(sizes) != len(loops):
        return
    spatial = next((i for i, kind in enumerate(kinds) if kind != "S"), len(loops))
    outer = list(loops[:spatial])
    if spatial == len(loops):  # nothing is reduced
        inner = outer.pop()
        if sizes[-1] % target.lanes == 0:
            block_loop, inner = sch.split(inner, factors=[None, target.lanes])
            outer.append(block_loop)
            sch.vectorize(inner)
    if outer and math.prod(sizes) >= _SERIAL_ELEMENTS:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
