"""What this package needs of TVM; no other module imports it.

The same for TVM v0.23.0 and for 0.27: what they spell differently is in ``names``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.torch import from_exported_program
from tvm.script.ir_builder import IRBuilder
from tvm.target import codegen

from bench.job.compile import names
from bench.job.compile.names import (
    Schedule,
    ScheduleError,
    T,
    bind,
    local_buffer,
    remap_var,
    tirx,
    var_name,
)

__all__ = [
    "OPAQUE",
    "VERSION",
    "PyExprMutator",
    "Schedule",
    "ScheduleError",
    "T",
    "bind",
    "child_blocks",
    "compile_kernel",
    "compile_lowered",
    "constant",
    "cpu_features",
    "cpu_pass",
    "cuda_machine_code",
    "cxx_compiler",
    "default_pipeline",
    "device",
    "direct_vars",
    "dispatch_passes",
    "elementwise",
    "extent",
    "finalize_passes",
    "float32_shape",
    "fusion_passes",
    "gpu_pass",
    "host_cpu",
    "import_exported",
    "is_call",
    "is_unscheduled",
    "iter_kinds",
    "kernel_name",
    "known_cpus",
    "load_library",
    "local_buffer",
    "lowering_passes",
    "make_target",
    "module_pass",
    "mutator",
    "plan_threads",
    "prim_func",
    "relax",
    "remap_var",
    "run_passes",
    "shape_of",
    "stock_legalize",
    "tensor",
    "tensor_type",
    "tensor_var",
    "tirx",
    "tvm",
    "uncompiled_cuda",
    "var_name",
    "virtual_machine",
]

VERSION: str = tvm.__version__
OPAQUE = 8  # TVM's OpPatternKind: an operator that is fused with nothing


# --- targets and devices ---------------------------------------------------------------------


def make_target(attributes: dict[str, object]) -> Any:
    """A ``tvm.target.Target`` from its attributes (all versions take dicts, 0.27 nothing else)."""
    return tvm.target.Target(attributes)


def host_cpu() -> str:
    """The name that the LLVM inside TVM gives this machine's CPU ("" if it cannot tell)."""
    return str(codegen.llvm_get_system_cpu())


def known_cpus() -> frozenset[str]:
    """The CPU names that the LLVM inside TVM can generate code for."""
    return frozenset(map(str, codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm"))))


def cpu_features(mcpu: str) -> frozenset[str]:
    """What LLVM takes its ``mcpu`` to be able to do, as "avx2" or "avx512f"."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    return frozenset(map(str, codegen.llvm_get_cpu_features(target)))


def device(name: str) -> Any:
    """The first device called ``name`` ("cpu" or "cuda")."""
    return tvm.device(name, 0)


def tensor(array: np.ndarray, where: Any) -> Any:
    """A copy of ``array`` on a device, aligned as TVM's kernels expect."""
    return tvm.runtime.tensor(np.ascontiguousarray(array), where)


# --- torch -> Relax --------------------------------------------------------------------------


def import_exported(exported: Any) -> tuple[Any, list[Any]]:
    """A decomposed ``torch.export`` program as (Relax module, parameters in ``main``'s order)."""
    mod = from_exported_program(exported, keep_params_as_input=True, run_ep_decomposition=False)
    mod, params = relax.frontend.detach_params(mod)
    return mod, list(params.get("main", []))


# --- TensorIR ---------------------------------------------------------------------------------


def prim_func(name: str, body: Callable[[], None]) -> Any:
    """The TensorIR function that ``body`` emits; its arguments never overlap in memory."""
    with IRBuilder() as builder:
        with names.prim_func_frame():
            T.func_name(name)
            T.func_attr({names.NOALIAS: True, "bench.name": name, "op_pattern": OPAQUE})
            body()
        func = builder.get()
    # Relax's passes look for the root block that a schedule would have made.
    root = names.Block([], [], [], "root", func.body)
    return func.with_body(names.BlockRealize([], True, root))


def is_unscheduled(func: Any) -> bool:
    """Whether ``func`` is TensorIR that TVM made of blocks and nobody has scheduled.

    A function written as loops, a scan for example, has no root block with others in it.
    """
    return (
        isinstance(func, tirx.PrimFunc)
        and "bench.name" not in (func.attrs or {})
        and isinstance(func.body, names.BlockRealize)
        and func.body.block.name_hint == "root"
    )


def child_blocks(schedule: Any) -> list[Any]:
    """The blocks of a schedule's function, in the order that they run."""
    return list(schedule.get_child_blocks(names.block_named(schedule, "root")))


def iter_kinds(schedule: Any, block: Any) -> str:
    """One letter an axis of ``block``: S for spatial, R for anything else."""
    spatial = tirx.IterVar.DataPar
    return "".join("S" if v.iter_type == spatial else "R" for v in schedule.get(block).iter_vars)


def extent(schedule: Any, loop: Any) -> int | None:
    """How often a loop runs; None where that is not a constant."""
    value = schedule.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else None


def elementwise(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A tensor expression that applies ``function`` to every element."""

    def compute(x: Any) -> Any:
        return te.compute(x.shape, lambda *at: function(x(*at)), name="elementwise")

    return compute


# --- Relax -----------------------------------------------------------------------------------


def is_call(expr: Any, operator: str) -> bool:
    """Whether ``expr`` calls the Relax operator of this name."""
    return isinstance(expr, relax.Call) and getattr(expr.op, "name", None) == operator


def shape_of(expr: Any, dtype: str) -> tuple[int, ...] | None:
    """The shape of a tensor whose shape is constant and whose type is ``dtype``; else None."""
    kind = names.type_of(expr)
    if not isinstance(kind, names.TensorType) or str(kind.dtype) != dtype:
        return None
    values = getattr(kind.shape, "values", None)
    if values is None or not all(isinstance(value, tirx.IntImm) for value in values):
        return None
    return tuple(int(value) for value in values)


def float32_shape(expr: Any) -> tuple[int, ...] | None:
    """The shape of a float32 tensor of constant shape; None for anything else."""
    return shape_of(expr, "float32")


def tensor_var(name: str, shape: Sequence[int], dtype: str = "float32") -> Any:
    """A variable that is a tensor."""
    return relax.Var(name, tensor_type(shape, dtype))


def tensor_type(shape: Sequence[int], dtype: str = "float32") -> Any:
    """The type of a tensor."""
    return names.TensorType(list(shape), dtype)


def constant(expr: Any) -> np.ndarray | None:
    """The array that a literal tensor holds; None for anything else."""
    # The class and its field have other names in v0.23.0.
    if not isinstance(expr, type(relax.const(0.0, "float32"))):
        return None
    return cast("np.ndarray", (expr.value if hasattr(expr, "value") else expr.data).numpy())


def direct_vars(expr: Any) -> list[Any]:
    """What an expression in A-normal form takes, in order; None where it is no variable."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.TupleGetItem):
        return [expr.tuple_value]
    args = expr.args if isinstance(expr, relax.Call) else getattr(expr, "fields", [])
    return [arg if isinstance(arg, relax.Var) else None for arg in args]


def kernel_name(kernel: Any) -> str:
    """The name that ``prim_func`` was given."""
    return str(kernel.attrs["bench.name"])


def stock_legalize(operator: str) -> Any:
    """How TVM itself lowers the Relax operator of this name."""
    return tvm.ir.Op.get(operator).get_attr("FLegalize")


# --- Relax -> lowered ------------------------------------------------------------------------


def default_pipeline(target: Any) -> Any:
    """The pipeline that TVM's own documentation gives for ``target``."""
    return relax.get_default_pipeline(target)


def _backend(target: Any) -> Any:
    name = "cuda" if target.kind.name == "cuda" else "cpu_generic"
    return importlib.import_module(f"tvm.relax.backend.{name}.pipeline")


def dispatch_passes() -> list[Any]:
    """Scans, sorts and sampling to the backend's own kernels: nothing else lowers them.

    The CPU backend of v0.23.0 has these passes and leaves them out of its list.
    """
    return [relax.backend.DispatchSampling(), relax.backend.DispatchSortScan()]


def fusion_passes(legalize_map: dict[str, Any] | None = None) -> list[Any]:
    """Operators to TensorIR, neighbours fused into one kernel where TVM's rules allow.

    ``legalize_map`` says what replaces a call of an operator, where that is not TVM's rule.
    """
    return [
        relax.transform.LegalizeOps(legalize_map),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]


def gpu_pass(*rules: str) -> Any:
    """dlight's GPU rules of these names, tried in this order on every kernel."""
    dlight = names.dlight
    return dlight.ApplyDefaultSchedule(*(getattr(dlight.gpu, rule)() for rule in rules))


def cpu_pass(*rules: str) -> Any:
    """dlight's CPU rules of these names, those that this TVM has, tried in this order."""
    dlight = names.dlight
    known = [getattr(dlight.cpu, rule)() for rule in rules if hasattr(dlight.cpu, rule)]
    return dlight.ApplyDefaultSchedule(*known)


def lowering_passes(target: Any) -> list[Any]:
    """Dataflow to calls with explicit outputs."""
    return list(_backend(target).dataflow_lower_passes(target))


def finalize_passes(target: Any) -> list[Any]:
    """Memory planned, runtime calls made explicit: what the virtual machine runs."""
    return list(_backend(target).finalize_passes(target))


def compile_lowered(mod: Any, target: Any) -> Any:
    """Code for a module that a pipeline has lowered already."""
    with target:  # the CUDA compiler takes its architecture from here, or else asks for a GPU
        return tvm.compile(mod, target, relax_pipeline=None)


def compile_kernel(kernel: Any, target: Any) -> Any:
    """One TensorIR function as a callable on tensors, the outputs last."""
    return tvm.compile(kernel.with_attr("global_symbol", "kernel"), target)["kernel"]


def uncompiled_cuda(executable: Any) -> list[str]:
    """The CUDA source that ``executable`` carries in place of machine code.

    Where no NVIDIA driver is installed 0.27's CUDA runtime does not load, and TVM then leaves
    the source in the library, to be compiled on the machine that loads it. v0.23.0 has its CUDA
    runtime in the compiler's library: it always compiles.
    """
    if tvm.get_global_func("ffi.Module.load_from_bytes.cuda", allow_missing=True) is not None:
        return []
    sources, modules = [], [executable.mod]
    while modules:
        module = modules.pop()
        modules.extend(module.imports)
        if module.kind == "cuda":
            sources.append(str(module.inspect_source("")))
    return sources


def cuda_machine_code(source: str, arch: str, compiler: str) -> bytes:
    """``source`` compiled for ``arch`` as TVM does it, with "nvcc" or "nvrtc".

    Raises:
        RuntimeError: the CUDA compiler refuses.
    """
    kind = "fatbin" if compiler == "nvcc" else "cubin"
    with tvm.target.Target({"kind": "cuda", "arch": arch}):
        return bytes(names.nvcc.compile_cuda(source, target_format=kind, compiler=compiler))


def cxx_compiler() -> str | None:
    """The C++ compiler that ``export_library`` would link with, if there is one."""
    return cast("str | None", names.cc.get_cc())


# --- running ---------------------------------------------------------------------------------


def plan_threads(cores: int) -> None:
    """Have TVM's kernels run on ``cores`` threads, unless the environment says otherwise.

    TVM itself takes every second core to be a hyper-thread and leaves it idle, which on a
    virtual machine halves the speed; and it binds the calling thread to one core for good. Both
    are read when the first kernel runs, which may be during compilation: constants are folded.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(cores))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def load_library(path: str) -> Any:
    """The module in a shared library that ``export_library`` wrote."""
    return tvm.runtime.load_module(path)


def virtual_machine(module: Any, where: Any, instrument: Callable[..., None] | None = None) -> Any:
    """A Relax virtual machine for a compiled or loaded module.

    ``instrument`` is called before and after each call that the machine makes, with the function,
    its name, whether it is before, what it returned, and its arguments.
    """
    machine = relax.VirtualMachine(module, where)
    if instrument is not None:
        machine.set_instrument(instrument)
    return machine


def module_pass(function: Callable[[Any], Any]) -> Any:
    """A function from module to module as a pass."""

    def apply(mod: Any, _context: Any) -> Any:
        return function(mod)

    return tvm.transform.module_pass(apply, opt_level=0, name=function.__name__)


def run_passes(mod: Any, target: Any, passes: Sequence[Any]) -> Any:
    """``passes`` applied in order, with ``target`` in scope."""
    with target:
        return tvm.transform.Sequential(list(passes))(mod)
