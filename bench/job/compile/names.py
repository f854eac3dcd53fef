"""What TVM spells differently from v0.23.0 to 0.27, found for the version that is installed.

No other module spells a name of its API by version. What is looked for is the name and never
the version number: the releases between moved one name at a time, and a development build says
whatever it likes. The test of this module tries every name on the TVM that is installed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

import tvm_ffi
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

# Each name as this project calls it, and where TVM has it: the first that exists is taken.
# First 0.27, then 0.26, last v0.23.0; but TensorType is another class in v0.23.0, so there it is
# the old name that comes first.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "tirx": ("tvm.tirx", "tvm.tir"),
    "T": ("tvm.tirx.script.builder.ir", "tvm.script.ir_builder.tir.ir"),
    "Schedule": ("tvm.s_tir.Schedule", "tvm.tir.Schedule"),
    "ScheduleError": ("tvm.s_tir.ScheduleError", "tvm.tir.ScheduleError"),
    "Block": ("tvm.s_tir.SBlock", "tvm.tirx.SBlock", "tvm.tir.Block"),
    "BlockRealize": ("tvm.s_tir.SBlockRealize", "tvm.tirx.SBlockRealize", "tvm.tir.BlockRealize"),
    "TensorType": ("tvm.relax.TensorStructInfo", "tvm.relax.TensorType"),
    "dlight": ("tvm.s_tir.dlight", "tvm.dlight"),
    "meta_schedule": ("tvm.s_tir.meta_schedule", "tvm.meta_schedule"),
    "Trace": ("tvm.s_tir.schedule.Trace", "tvm.tir.schedule.Trace"),
    "estimate_tir_flops": (
        "tvm.s_tir.analysis.estimate_tir_flops",
        "tvm.tir.analysis.estimate_tir_flops",
    ),
    "cc": ("tvm.support.cc", "tvm.contrib.cc"),
    "nvcc": ("tvm.support.nvcc", "tvm.contrib.nvcc"),
}
INTRINSICS = ("tvm.s_tir.tensor_intrin", "tvm.tir.tensor_intrin")


def find(name: str) -> Any:
    """What a key of ``SPELLINGS`` stands for in the installed TVM.

    Raises:
        ImportError: this TVM has it under none of its spellings, or what has it is broken.
    """
    for spelling in SPELLINGS[name]:
        found = _lookup(spelling)
        if found is not None:
            return found
    raise ImportError(f"this TVM has none of: {', '.join(SPELLINGS[name])}")


def _lookup(path: str) -> Any:
    """A module, or what a module holds; None where there is no such name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        # Only a missing link of this very path: a module that lacks a dependency is broken.
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
    parent, _, last = path.rpartition(".")
    return getattr(_lookup(parent), last, None) if parent else None


def _lean_intrinsics() -> None:
    """Have TVM find its package of hardware intrinsics without any of them in it.

    They are some hundred TensorIR functions for every kind of hardware, parsed anew in each
    process that asks for one kind, as dlight does, or for none, as MetaSchedule does: a minute and
    more of a slow core's time. A module of the package is still imported where it is named.
    """
    for name in INTRINSICS:
        parent = _lookup(name.rpartition(".")[0])
        if parent is None or name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is not None:
            sys.modules[name] = importlib.util.module_from_spec(spec)  # and never executed


_lean_intrinsics()
tirx = find("tirx")
T = find("T")
Schedule = find("Schedule")
ScheduleError = find("ScheduleError")
Block = find("Block")
BlockRealize = find("BlockRealize")
TensorType = find("TensorType")
dlight = find("dlight")
cc = find("cc")
nvcc = find("nvcc")
te = importlib.import_module("tvm.te")

_DIALECT = tirx.__name__.rpartition(".")[2]  # what TensorIR's own names begin with
# The attribute of a function whose arguments never overlap in memory.
NOALIAS = f"{_DIALECT}.noalias"
# That of one that dlight has nothing to do with any more.
SCHEDULED = f"{_DIALECT}.is_scheduled"


# --- TensorIR ---------------------------------------------------------------------------------


def prim_func_frame() -> Any:
    """The frame of a private function: within it statements are emitted."""
    if hasattr(T, "Bind"):
        return T.prim_func(private=True, s_tir=True)
    return T.prim_func(is_private=True)


def bind(value: Any) -> Any:
    """Emit ``let x = value``; x, to use until the end of the frame that is open."""
    return T.Bind(value) if hasattr(T, "Bind") else _until_the_frame_ends(T.LetStmt(value))


def local_buffer(size: int) -> Any:
    """Emit ``size`` float32 of a thread's own, in registers if the code allows.

    They live until the end of the frame that is open. Below 1 KiB, and in the scope "global"
    only, every version puts them on the stack; else TVM's allocator is called each time.
    ``T.alloc_buffer`` of v0.23.0 would put them at the head of the function, shared by all threads.
    """
    if hasattr(T, "Bind"):
        return T.alloc_buffer((size,), "float32", scope="global")
    data = _until_the_frame_ends(T.allocate([size], "float32", "global"))
    return _until_the_frame_ends(T.decl_buffer((size,), "float32", data=data, scope="global"))


def scoped_buffer(size: int, scope: str) -> Any:
    """Emit ``size`` float32 in a GPU's memory: "shared" by a block, or a thread's own, "local"."""
    if hasattr(T, "Bind"):
        return T.alloc_buffer((size,), "float32", scope=scope)
    data = _until_the_frame_ends(T.allocate([size], "float32", scope))
    return _until_the_frame_ends(T.decl_buffer((size,), "float32", data=data, scope=scope))


def prefetch(buffer: Any, at: Any) -> None:
    """Emit a wish for element ``at`` of ``buffer``, counted flat, in the second-level cache soon.

    It reads nothing, whatever lies there, and may be ignored.
    """
    where = buffer.access_ptr("r", offset=at)
    read, second_level, data = 0, 2, 1  # as llvm.prefetch has them
    wish = T.call_intrin("void", f"{_DIALECT}.prefetch", where, read, second_level, data)
    T.evaluate(wish)


def _until_the_frame_ends(frame: Any) -> Any:
    """Enter ``frame``, to be left with the frame around it: v0.23.0 nests its statements."""
    frame.add_callback(functools.partial(frame.__exit__, None, None, None))
    return frame.__enter__()


def block_named(schedule: Any, name: str) -> Any:
    """The block of a schedule's function that is called ``name``."""
    get = getattr(schedule, "get_sblock", None) or schedule.get_block
    return get(name)


def buffers(func: Any) -> list[Any]:
    """The buffers that a TensorIR function takes, in order; [] where it takes anything else too."""
    found = [
        func.buffer_map.get(param) if hasattr(func, "buffer_map") else param
        for param in func.params
    ]
    return found if all(hasattr(one, "shape") for one in found) else []


# --- devices ----------------------------------------------------------------------------------

_CUDA = 2  # DLPack's kDLCUDA


def cuda_stream(where: Any) -> int | None:
    """The handle of the stream that TVM queues its work for ``where`` on, 0 for the default one.

    It is what its CUDA runtime asks for at every launch (TVMFFIEnvGetStream). None where ``where``
    is no GPU, or where tvm_ffi is too old to tell.
    """
    ask = getattr(tvm_ffi, "get_raw_stream", None)
    if ask is None or where.dlpack_device_type() != _CUDA:
        return None
    return int(ask(where))


# --- Relax ------------------------------------------------------------------------------------


def type_of(expr: Any) -> Any:
    """What is known of a Relax expression's value; a ``TensorType`` if it is a tensor."""
    return expr.struct_info if hasattr(relax, "TensorStructInfo") else expr.ty


def var_name(var: Any) -> str:
    """What a Relax variable is called."""
    return str(var.name_hint if hasattr(relax, "TensorStructInfo") else var.name)


def remap_var(mutator: Any, old: Any, new: Any) -> None:
    """Have a mutator write ``new`` wherever ``old`` is used."""
    mutator.set_var_remap(old.vid if hasattr(relax, "TensorStructInfo") else old, new)


def importable_operators() -> frozenset[str]:
    """The operators that the importer of this version has a rule for, as "add.Tensor"."""
    return frozenset(ExportedProgramImporter().convert_map)
