"""Every name that TVM's versions spell differently, tried on the TVM that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import relax

from bench.job.compile import api, names
from bench.job.compile.target import detect_cpu


def doubled(size: int = 4) -> Any:
    """A function y = 2 * x in TensorIR, through a let and a buffer of its own."""

    def body() -> None:
        x = names.T.arg("x", names.T.buffer((size,), "float32"))
        y = names.T.arg("y", names.T.buffer((size,), "float32"))
        with names.T.serial(0, size) as i:
            own = names.local_buffer(1)
            names.T.buffer_store(own, x[i], [0])
            twice = names.bind(own[0] + own[0])
            names.T.buffer_store(y, twice, [i])

    return api.prim_func("doubled", body)


def scheduled() -> Any:
    """A schedule of a function that TVM made of one block."""
    builder = relax.BlockBuilder()
    x = api.tensor_var("x", (8,))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit_te(api.elementwise(lambda v: v * 2), x))
    (func,) = (f for _, f in builder.get().functions_items() if isinstance(f, names.tirx.PrimFunc))
    return names.Schedule(func)


def check_tirx(tirx: Any) -> None:
    assert isinstance(doubled(), tirx.PrimFunc)
    assert int(tirx.const(3, "int32")) == 3
    for used in ("min", "max", "floor", "Cast", "reinterpret", "IterVar", "IntImm"):
        assert hasattr(tirx, used)


def check_builder(t: Any) -> None:
    for used in ("arg", "buffer", "buffer_store", "serial", "parallel", "vectorized"):
        assert callable(getattr(t, used))
    for used in ("If", "Then", "Else", "min", "sqrt", "float32", "func_attr", "func_name"):
        assert callable(getattr(t, used))


def check_schedule(schedule: Any) -> None:
    made = scheduled()
    assert isinstance(made, schedule)
    (block,) = api.child_blocks(made)
    assert [api.extent(made, loop) for loop in made.get_loops(block)] == [8]
    assert api.iter_kinds(made, block) == "S"


def check_schedule_error(error: type[Exception]) -> None:
    made = scheduled()
    (block,) = api.child_blocks(made)
    with pytest.raises(error):
        made.compute_inline(block)  # nothing reads it: it is what the function returns


def check_block(block: Any) -> None:
    assert isinstance(doubled().body.block, block)
    assert isinstance(scheduled().mod["main"].body.block, block)


def check_block_realize(realize: Any) -> None:
    assert isinstance(doubled().body, realize)
    assert api.is_unscheduled(scheduled().mod["main"])


def check_tensor_type(kind: Any) -> None:
    var = api.tensor_var("x", (2, 3))
    assert isinstance(names.type_of(var), kind)
    assert api.float32_shape(var) == (2, 3)
    assert api.shape_of(var, "int32") is None


def check_dlight(dlight: Any) -> None:
    for rule in ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback"):
        assert isinstance(getattr(dlight.gpu, rule)(), dlight.ScheduleRule)
    assert api.gpu_pass("Fallback") is not None


def check_meta_schedule(meta_schedule: Any) -> None:
    assert callable(meta_schedule.TuneContext) and callable(meta_schedule.CostModel.create)
    assert callable(meta_schedule.utils.shash2hex)
    (package,) = (name for name in names.INTRINSICS if name in sys.modules)
    assert package.rpartition(".")[0] in names.Schedule.__module__
    # Those of this machine's own kind, for one, which nothing here asks for.
    assert f"{package}.x86" not in sys.modules
    assert importlib.util.find_spec(f"{package}.x86") is not None


def check_cc(cc: Any) -> None:
    assert Path(cc.get_cc()).name in ("g++", "gcc", "clang++", "clang", "c++", "cc")


def check_nvcc(nvcc: Any) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        nvcc.compile_cuda("no CUDA", target_format="cubin", arch="sm_80", compiler="neither")


def check_trace(trace: Any) -> None:
    made = scheduled()
    assert isinstance(made.trace, trace)


def check_flops(estimate: Any) -> None:
    assert float(estimate(scheduled().mod)) == 8


CHECKS: dict[str, Callable[[Any], None]] = {
    "tirx": check_tirx,
    "T": check_builder,
    "Schedule": check_schedule,
    "ScheduleError": check_schedule_error,
    "Block": check_block,
    "BlockRealize": check_block_realize,
    "TensorType": check_tensor_type,
    "dlight": check_dlight,
    "meta_schedule": check_meta_schedule,
    "Trace": check_trace,
    "estimate_tir_flops": check_flops,
    "cc": check_cc,
    "nvcc": check_nvcc,
}


@pytest.mark.parametrize("name", names.SPELLINGS)
def test_a_name_is_found_and_does_what_it_is_for(name: str) -> None:
    CHECKS[name](names.find(name))


def test_what_is_not_overlapping_is_said_under_a_name_that_tvm_reads() -> None:
    attrs = doubled().attrs
    assert int(attrs[names.NOALIAS]) == 1
    assert f"tvm.{names.NOALIAS.split('.')[0]}" == names.tirx.__name__


def test_a_private_function_with_a_let_and_a_buffer_runs() -> None:
    assert "global_symbol" not in doubled().attrs
    kernel = api.compile_kernel(doubled(), detect_cpu().tvm())
    device = api.device("cpu")
    out = api.tensor(np.zeros(4, np.float32), device)
    kernel(api.tensor(np.arange(4, dtype=np.float32), device), out)
    assert out.numpy().tolist() == [0, 2, 4, 6]


def test_a_buffer_of_its_own_is_one_for_each_turn_of_a_parallel_loop() -> None:
    """Were it shared, threads would add into each other's sums."""
    count, terms = 64, 512

    def body() -> None:
        x = names.T.arg("x", names.T.buffer((count, terms), "float32"))
        y = names.T.arg("y", names.T.buffer((count,), "float32"))
        with names.T.parallel(0, count) as i:
            total = names.local_buffer(1)
            names.T.buffer_store(total, names.T.float32(0), [0])
            with names.T.serial(0, terms) as j:
                names.T.buffer_store(total, total[0] + x[i, j], [0])
            names.T.buffer_store(y, total[0], [i])

    kernel = api.compile_kernel(api.prim_func("sums", body), detect_cpu().tvm())
    device = api.device("cpu")
    x = np.arange(count * terms, dtype=np.float32).reshape(count, terms) % 7
    out = api.tensor(np.zeros(count, np.float32), device)
    for _ in range(20):
        kernel(api.tensor(x, device), out)
        assert (out.numpy() == x.sum(1)).all()


def test_a_block_is_found_by_its_name() -> None:
    made = scheduled()
    assert made.get(names.block_named(made, "root")).name_hint == "root"


def test_a_variable_has_its_name() -> None:
    assert names.var_name(api.tensor_var("weight", (1,))) == "weight"


def test_a_mutator_writes_the_new_variable() -> None:
    builder = relax.BlockBuilder()
    old, new = api.tensor_var("old", (8,)), api.tensor_var("new", (8,))
    with builder.function("main", [old]):
        builder.emit_func_output(builder.emit(relax.op.exp(old)))
    main = builder.get()["main"]

    @api.mutator
    class Rename(api.PyExprMutator):  # type: ignore[misc]
        pass

    walk = Rename(builder.get())
    names.remap_var(walk, old, new)
    body = walk.visit_with_new_scope(main.body)
    assert body.blocks[0].bindings[0].value.args[0].same_as(new)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``fake`` with one module, ``fake.old``, that holds ``thing``."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "__init__.py").touch()
    (tmp_path / "fake" / "old.py").write_text("thing = 'old'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(names.SPELLINGS, "thing", ("fake.new.thing", "fake.old.thing"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "fake"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    return tmp_path / "fake"


def test_the_first_spelling_that_exists_is_taken(fake: Path) -> None:
    assert names.find("thing") == "old"
    (fake / "new.py").write_text("thing = 'new'\n")
    importlib.invalidate_caches()
    assert names.find("thing") == "new"


def test_a_broken_tvm_is_not_taken_for_an_older_one(fake: Path) -> None:
    (fake / "new.py").write_text("import a_dependency_that_is_missing\n")
    with pytest.raises(ImportError, match="a_dependency_that_is_missing"):
        names.find("thing")


def test_a_name_that_is_nowhere_is_named(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.SPELLINGS, "gone", ("fake.old.gone", "fake.away.gone"))
    with pytest.raises(ImportError, match=r"fake\.old\.gone, fake\.away\.gone"):
        names.find("gone")
