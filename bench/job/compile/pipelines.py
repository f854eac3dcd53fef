"""What is done to a Relax module before code is generated: named lists of named passes.

A pipeline takes the module as imported and leaves it lowered: ready for the virtual machine.
``LADDER`` lists some of them so that each has one thing more than the one before it: what that is
worth, ``invoke bench --ladder`` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import UsageFault
from bench.job.compile import api, fuse_attention, gpu, rewrite, tasks
from bench.job.compile.schedules import leftover
from bench.job.compile.target import CompileTarget

Pass = Callable[[CompileTarget], list[Any]]


def _module(function: Callable[[Any, CompileTarget], Any], **options: Any) -> Pass:
    """A function from module to module as a pass."""

    def made(target: CompileTarget) -> list[Any]:
        def apply(mod: Any) -> Any:
            return function(mod, target, **options)

        return [api.module_pass(apply)]

    return made


# What each name does, for the target it is given.
PASSES: dict[str, Pass] = {
    # Attention as one kernel, with no (T, T) tensor.
    "attention": _module(fuse_attention.use_attention),
    # Kernels of this project's for products, norms and softmax.
    "kernels": _module(rewrite.use_kernels, packed=False, epilogues=False),
    # The same, and weights packed once into the layout that a kernel reads them in; their bias too.
    "packed": _module(rewrite.use_kernels, packed=True, epilogues=False),
    # The same, and GELU and the residual sum done before a product is written.
    "epilogues": _module(rewrite.use_kernels, packed=True, epilogues=True),
    # The same, and packed weights stored in fewer bits: widened as they are read.
    "bf16": _module(rewrite.use_kernels, stored="bfloat16"),
    "int8": _module(rewrite.use_kernels, stored="int8"),
    "dispatch": lambda _: api.dispatch_passes(),
    "legalize": lambda _: [api.relax.transform.LegalizeOps()],
    # Operators to TensorIR, and neighbours fused as TVM's rules allow.
    "fuse": lambda _: api.fusion_passes(),
    # The same, with GELU by arithmetic that vectorises.
    "fuse-vectors": lambda _: api.fusion_passes(rewrite.legalize_map()),
    "stock": lambda target: [api.default_pipeline(target.tvm())],
    "dlight-cpu": lambda _: [api.cpu_pass("GEMV", "Reduction")],
    # What no kernel of ours is for: inlined, parallel, vectorised.
    "leftover": _module(leftover.schedule_leftovers),
    # A GPU kernel without threads is no kernel: this is the plainest binding there is.
    "bind": lambda _: [api.gpu_pass("Fallback")],
    "dlight-gpu": lambda _: [
        api.gpu_pass("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback")
    ],
    # Products by the vendor's library, where this TVM has it.
    "cublas": lambda _: gpu.library_products(),
    "cublas-required": lambda _: gpu.required_library_products(),
    # A weight is read as it lies: not transposed into memory anew at every call.
    "weights-gpu": lambda _: gpu.transposed_products(),
    "lower": lambda target: api.lowering_passes(target.tvm()),
    "finalize": lambda target: api.finalize_passes(target.tvm()),
}

# What a search found, in place of kernels and leftovers. It needs what was found: see ``apply``.
TUNED = "tuned"
_END = ("lower", "finalize")


def _tuned_pass(tuned: Mapping[str, tasks.TraceJson]) -> Callable[[Any], Any]:
    def use_tuned(mod: Any) -> Any:
        return tasks.use_tuned(mod, tuned)

    return use_tuned


def to_kernels(mod: Any, target: CompileTarget) -> Any:
    """``mod`` as far as the pipeline "tuned" goes before it takes what a search found."""
    steps = _TUNED.cpu[: _TUNED.cpu.index(TUNED)]
    return api.run_passes(mod, target.tvm(), [p for step in steps for p in PASSES[step](target)])


@dataclass(frozen=True)
class Pipeline:
    """A named way from an imported ``tvm.IRModule`` to a lowered one, by kind of target."""

    name: str
    summary: str
    cpu: tuple[str, ...]  # keys of PASSES
    gpu: tuple[str, ...]
    graphs: bool = False  # on a GPU: what needs no argument's address is replayed in one launch

    def apply(
        self, mod: Any, target: CompileTarget, tuned: Mapping[str, tasks.TraceJson] | None = None
    ) -> Any:
        """``mod`` after all passes; ``tuned`` are schedules that were searched for, by task."""
        steps = self.gpu if target.kind == "cuda" else self.cpu
        if not steps:
            if target.kind == "cuda":
                raise UsageFault(
                    f"the pipeline '{self.name}' is for a CPU",
                    hint="leave out --gpu and --cuda-arch",
                )
            raise UsageFault(
                f"the pipeline '{self.name}' is for a GPU",
                hint="add --gpu, or --cuda-arch to compile without one",
            )
        known: dict[str, Pass] = {
            **PASSES,
            TUNED: lambda _: [api.module_pass(_tuned_pass(tuned or {}))],
        }
        passes = [one for step in steps for one in known[step](target)]
        with gpu.cuda_graphs(self.graphs and target.kind == "cuda"):
            return api.run_passes(mod, target.tvm(), passes)


def _ours(*first: str) -> tuple[str, ...]:
    return (*first, "dispatch", "fuse-vectors", "leftover", *_END)


_WEIGHTS = ("weights-gpu", "dispatch", "fuse", "dlight-gpu", *_END)

_NONE = Pipeline(
    "none",
    "operators lowered one by one: no fusion, no schedules",
    ("dispatch", "legalize", *_END),
    ("dispatch", "legalize", "bind", *_END),
)
_DEFAULT = Pipeline("default", "TVM's stock pipeline for the target", ("stock",), ("stock",))
_OPTIMIZED = Pipeline(
    "optimized",
    "fused attention, packed weights, register-tiled kernels, fused epilogues",
    _ours("attention", "epilogues"),
    ("attention", "cublas", *_WEIGHTS),
    graphs=True,
)
_TUNED = Pipeline(
    "tuned",
    "and, kernel by kernel, a schedule that was searched for where it measured faster",
    ("attention", "epilogues", "dispatch", "fuse-vectors", TUNED, "leftover", *_END),
    (),
)
# Two ways on from there, of which each changes the weights themselves.
_WEIGHT_ONLY = (
    Pipeline("bf16", "and weights stored in bfloat16", _ours("attention", "bf16"), ()),
    Pipeline(
        "int8", "or in int8, with a scale for each output channel", _ours("attention", "int8"), ()
    ),
)
_RUNGS = (
    Pipeline(
        "ladder-fused",
        "neighbours fused",
        ("dispatch", "fuse", *_END),
        ("dispatch", "fuse", "bind", *_END),
    ),
    Pipeline(
        "ladder-dlight",
        "and TVM's own schedules (dlight)",
        ("dispatch", "fuse", "dlight-cpu", *_END),
        ("dispatch", "fuse", "dlight-gpu", *_END),
    ),
    Pipeline("ladder-kernels", "this project's schedules instead", _ours("kernels"), ()),
    Pipeline("ladder-packed", "and weights packed once", _ours("packed"), ()),
    Pipeline("ladder-epilogues", "and epilogues fused into products", _ours("epilogues"), ()),
)
_GPU_RUNGS = (
    Pipeline("ladder-weights", "and weights read as they lie", (), _WEIGHTS),
    Pipeline("ladder-attention", "and attention as one kernel", (), ("attention", *_WEIGHTS)),
    Pipeline(
        "ladder-cublas",
        "and products by cuBLAS, in a TVM built with it",
        (),
        ("attention", "cublas-required", *_WEIGHTS),
    ),
)
# Each rung has what the one before it has, and one thing more; int8 instead of bf16. The last of a
# GPU: CUDA graphs.
LADDER: tuple[Pipeline, ...] = (_NONE, *_RUNGS, _OPTIMIZED, _TUNED, *_WEIGHT_ONLY)
GPU_LADDER: tuple[Pipeline, ...] = (_NONE, *_RUNGS[:2], *_GPU_RUNGS, _OPTIMIZED)

PIPELINES: dict[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (_NONE, _DEFAULT, _OPTIMIZED, _TUNED, *_WEIGHT_ONLY, *_RUNGS, *_GPU_RUNGS)
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
