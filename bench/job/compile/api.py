"""How the supported version of TVM spells what this package needs; no other module knows it.

Written for TVM 0.27. A second version is a second spelling in this file and nowhere else: the
names that moved between v0.23 and 0.27 (``tvm.tir`` to ``tvm.tirx``, ``tvm.tir.Schedule`` to
``tvm.s_tir.Schedule``, ``tvm.dlight`` to ``tvm.s_tir.dlight``, target strings to dicts, the
lowering passes by backend) are all used here alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.frontend.torch import from_exported_program
from tvm.s_tir import Schedule, dlight
from tvm.script import tirx as T
from tvm.support import cc
from tvm.target import codegen

__all__ = [
    "VERSION",
    "Schedule",
    "T",
    "compile_lowered",
    "cpu_has_feature",
    "cxx_compiler",
    "default_pipeline",
    "device",
    "dlight",
    "finalize_passes",
    "fusion_passes",
    "gpu_pass",
    "host_cpu",
    "import_exported",
    "known_cpus",
    "load_library",
    "lowering_passes",
    "make_target",
    "relax",
    "run_passes",
    "tensor",
    "tirx",
    "tvm",
    "virtual_machine",
]

VERSION: str = tvm.__version__


# --- targets and devices ---------------------------------------------------------------------


def make_target(attributes: dict[str, object]) -> Any:
    """A ``tvm.target.Target`` from its attributes (0.27 takes dicts only)."""
    return tvm.target.Target(attributes)


def host_cpu() -> str:
    """The name that the LLVM inside TVM gives this machine's CPU ("" if it cannot tell)."""
    return str(codegen.llvm_get_system_cpu())


def known_cpus() -> frozenset[str]:
    """The CPU names that the LLVM inside TVM can generate code for."""
    return frozenset(map(str, codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm"))))


def cpu_has_feature(feature: str, mcpu: str) -> bool:
    """Whether LLVM's ``mcpu`` has ``feature``, as "avx2" or "avx512f"."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    return bool(codegen.llvm_cpu_has_features(feature, target))


def device(name: str) -> Any:
    """The first device called ``name`` ("cpu" or "cuda")."""
    return tvm.device(name, 0)


def tensor(array: np.ndarray, where: Any) -> Any:
    """A copy of ``array`` on a device, aligned as TVM's kernels expect."""
    return tvm.runtime.tensor(np.ascontiguousarray(array), where)


# --- torch -> Relax --------------------------------------------------------------------------


def import_exported(exported: Any) -> tuple[Any, list[Any]]:
    """A ``torch.export`` program as (Relax module, its parameters in ``main``'s order)."""
    mod = from_exported_program(exported, keep_params_as_input=True)
    mod, params = relax.frontend.detach_params(mod)
    return mod, list(params.get("main", []))


# --- Relax -> lowered ------------------------------------------------------------------------


def default_pipeline(target: Any) -> Any:
    """The pipeline that TVM's own documentation gives for ``target``."""
    return relax.get_default_pipeline(target)


def _backend(target: Any) -> Any:
    name = "cuda" if target.kind.name == "cuda" else "cpu_generic"
    return importlib.import_module(f"tvm.relax.backend.{name}.pipeline")


def fusion_passes() -> list[Any]:
    """Operators to TensorIR, neighbours fused into one kernel where TVM's rules allow."""
    return [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]


def gpu_pass(*rules: str) -> Any:
    """dlight's GPU rules of these names, tried in this order on every kernel."""
    return dlight.ApplyDefaultSchedule(*(getattr(dlight.gpu, rule)() for rule in rules))


def lowering_passes(target: Any) -> list[Any]:
    """Dataflow to calls with explicit outputs."""
    return list(_backend(target).dataflow_lower_passes(target))


def finalize_passes(target: Any) -> list[Any]:
    """Memory planned, runtime calls made explicit: what the virtual machine runs."""
    return list(_backend(target).finalize_passes(target))


def compile_lowered(mod: Any, target: Any) -> Any:
    """Code for a module that a pipeline has lowered already."""
    return tvm.compile(mod, target, relax_pipeline=None)


def cxx_compiler() -> str | None:
    """The C++ compiler that ``export_library`` would link with, if there is one."""
    return cast("str | None", cc.get_cc())


# --- running ---------------------------------------------------------------------------------


def load_library(path: str) -> Any:
    """The module in a shared library that ``export_library`` wrote."""
    return tvm.runtime.load_module(path)


def virtual_machine(module: Any, where: Any) -> Any:
    """A Relax virtual machine for a compiled or loaded module."""
    return relax.VirtualMachine(module, where)


def run_passes(mod: Any, target: Any, passes: Sequence[Any]) -> Any:
    """``passes`` applied in order, with ``target`` in scope."""
    with target:
        return tvm.transform.Sequential(list(passes))(mod)
