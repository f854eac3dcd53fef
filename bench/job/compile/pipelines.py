"""What is done to a Relax module before code is generated, by name.

A pipeline takes the module as imported and leaves it lowered: ready for the virtual machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.errors import UsageFault
from bench.job.compile import api, rewrite
from bench.job.compile.schedules import leftover
from bench.job.compile.target import CompileTarget


@dataclass(frozen=True)
class Pipeline:
    """A named way from an imported ``tvm.IRModule`` to a lowered one."""

    name: str
    summary: str
    apply: Callable[[Any, CompileTarget], Any]


def _none(mod: Any, target: CompileTarget) -> Any:
    tvm_target = target.tvm()
    # A GPU kernel without threads is no kernel: give it the plainest binding there is.
    binding = [api.gpu_pass("Fallback")] if target.kind == "cuda" else []
    return api.run_passes(
        mod,
        tvm_target,
        [
            *api.dispatch_passes(),
            api.relax.transform.LegalizeOps(),
            *binding,
            *api.lowering_passes(tvm_target),
            *api.finalize_passes(tvm_target),
        ],
    )


def _default(mod: Any, target: CompileTarget) -> Any:
    tvm_target = target.tvm()
    return api.run_passes(mod, tvm_target, [api.default_pipeline(tvm_target)])


def _optimized(mod: Any, target: CompileTarget) -> Any:
    return _optimized_gpu(mod, target) if target.kind == "cuda" else _optimized_cpu(mod, target)


def _optimized_cpu(mod: Any, target: CompileTarget) -> Any:
    tvm_target = target.tvm()
    return api.run_passes(
        mod,
        tvm_target,
        [
            api.module_pass(lambda m: rewrite.use_kernels(m, target)),
            *api.dispatch_passes(),
            *api.fusion_passes(rewrite.legalize_map()),
            api.module_pass(lambda m: leftover.schedule_leftovers(m, target)),
            *api.lowering_passes(tvm_target),
            *api.finalize_passes(tvm_target),
        ],
    )


def _optimized_gpu(mod: Any, target: CompileTarget) -> Any:
    tvm_target = target.tvm()
    return api.run_passes(
        mod,
        tvm_target,
        [
            *api.dispatch_passes(),
            *api.fusion_passes(),
            api.gpu_pass("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback"),
            *api.lowering_passes(tvm_target),
            *api.finalize_passes(tvm_target),
        ],
    )


PIPELINES: dict[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline("none", "operators lowered one by one: no fusion, no schedules", _none),
        Pipeline("default", "TVM's stock pipeline for the target", _default),
        Pipeline("optimized", "packed weights, register-tiled kernels, fusion", _optimized),
    )
}


def pipeline(name: str) -> Pipeline:
    """The pipeline called ``name``.

    Raises:
        UsageFault: there is no such pipeline.
    """
    try:
        return PIPELINES[name]
    except KeyError:
        raise UsageFault(
            f"unknown pipeline '{name}'", hint=f"choose one of: {', '.join(PIPELINES)}"
        ) from None
