"""What is compiled for a GPU, on a machine without one: which kernels, and that they assemble."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import catalog
from bench.errors import NotHere, UsageFault
from bench.host import breakeven, ladder
from bench.job import backends, decoder, gpt
from bench.job.backends.base import Program
from bench.job.backends.tvm import Tvm
from bench.job.compile import api, build, gpu, pipelines, target
from bench.job.compile.importer import import_module
from tests.conftest import cannot_run
from tests.unit.cuda_on_cpu import cuda_sources
from tests.unit.samples import record, result

ARCHS = ("sm_80", "sm_86", "sm_90")
PROGRAMS = ("prefill", "step")
CONTEXT = 300  # more than one part of a cache
# dlight has no tensor cores for a product with any extent of 64 or less.
WIDE = gpt.GPTConfig(n_layer=1, n_head=2, n_embd=128, block_size=128, vocab_size=300)


def program(name: str, dtype: str = "float32") -> Program:
    """A function of a small GPT: a prompt of 64, or a token after it; or a wider one's prompt."""
    if name == "wide":
        return decoder.programs(gpt.build(WIDE, 1), 1, 100, 101)["prefill"].to(dtype)
    config = gpt.preset("gpt-nano")
    return decoder.programs(gpt.build(config, 1), 1, 64, CONTEXT)[name].to(dtype)


@functools.cache
def source(name: str, pipeline: str, arch: str, dtype: str = "float32") -> str:
    """All CUDA that ``pipeline`` makes of a program; its module's functions as comments."""
    made_for, wanted = target.cuda(arch), program(name, dtype)
    imported = import_module(wanted.module, wanted.example, build.FLOATS["cuda"])
    lowered = pipelines.pipeline(pipeline).apply(imported.mod, made_for)
    names = sorted(str(var.name_hint) for var in lowered.functions)
    executable = api.compile_lowered(lowered, made_for.tvm())
    return "\n".join([*(f"// {one}" for one in names), *cuda_sources(executable)])


def kernels(text: str) -> set[str]:
    return set(re.findall(r"void __launch_bounds__\(\d+\) (\w+)\(", text))


def test_attention_is_one_kernel_and_no_weight_is_transposed() -> None:
    prompt = kernels(source("prefill", "optimized", "sm_80"))
    assert any(name.startswith("causal_attention_1x64x3x16") for name in prompt)
    assert not [name for name in prompt if "softmax" in name]
    step = kernels(source("step", "optimized", "sm_80"))
    assert any(name.startswith("attend_1x3x16x300") for name in step)
    assert any(name.startswith("attend_merge_1x3x16x2") for name in step)
    assert any("NT_matmul" in name for name in step)
    # The stock rules copy every weight into another layout before each product with it.
    assert not [name for name in step if re.fullmatch(r"transpose\d*_kernel", name)]
    plain = kernels(source("step", "ladder-dlight", "sm_80"))
    assert len([name for name in plain if re.fullmatch(r"transpose\d*_kernel", name)]) > 3


def test_runs_of_kernels_are_captured_in_cuda_graphs_on_the_last_rung_only() -> None:
    assert "// main_cuda_graph_capture" in source("step", "optimized", "sm_80")
    assert "cuda_graph" not in source("step", "ladder-attention", "sm_80")


def test_in_float16_attention_is_one_kernel_and_no_weight_is_transposed() -> None:
    prompt = source("prefill", "optimized", "sm_80", "float16")
    assert any(name.startswith("causal_attention_1x64x3x16_float16") for name in kernels(prompt))
    assert not [name for name in kernels(prompt) if "softmax" in name]
    step = source("step", "optimized", "sm_80", "float16")
    assert any(name.startswith("attend_1x3x16x300_float16") for name in kernels(step))
    assert any(name.startswith("attend_merge_1x3x16x2_float16") for name in kernels(step))
    assert not [name for name in kernels(step) if re.fullmatch(r"transpose\d*_kernel", name)]


def test_in_float16_products_of_a_prompt_are_for_tensor_cores() -> None:
    text = source("wide", "optimized", "sm_80", "float16")
    fragments = set(re.findall(r"fragment<(?:nvcuda::)?wmma::(\w+), \d+, \d+, \d+, (\w+)", text))
    # Factors of 16 bits, sums of 32.
    assert fragments == {("matrix_a", "half"), ("matrix_b", "half"), ("accumulator", "float")}
    assert "wmma" not in source("wide", "optimized", "sm_80")


def composites(name: str, dtype: str = "float32") -> list[str]:
    """The pattern of each product of a program that is partitioned off for cuBLAS."""
    wanted = program(name, dtype)
    imported = import_module(wanted.module, wanted.example, build.FLOATS["cuda"])
    made_for = target.cuda("sm_80")
    passes = [*pipelines.PASSES["attention"](made_for), gpu.partition_products()]
    parted = api.run_passes(imported.mod, made_for.tvm(), passes)
    functions = [func for func in parted.functions.values() if "Codegen" in (func.attrs or {})]
    assert {func.attrs["Codegen"] for func in functions} <= {"cublas"}
    calls = Counter(re.findall(r"(\w+_cublas)\(", parted["main"].script()))
    named = {func.attrs["global_symbol"]: func for func in functions}
    assert set(calls) == set(named)
    return sorted(
        pattern
        for one, times in calls.items()
        for pattern in re.findall(r'"Composite": "([\w.]+)"', named[one].script()) * times
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_of_a_prompt_are_for_cublas_where_a_tvm_has_it(dtype: str) -> None:
    # Four a layer, with their biases; the head is of the last position alone.
    assert Counter(composites("prefill", dtype)) == {"cublas.matmul_transposed_bias": 12}
    assert composites("step", dtype) == []  # of one row


def test_gelu_is_not_left_to_cublas_whose_own_is_by_tanh() -> None:
    class Erf(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(8, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(self.up(x))

    imported = import_module(Erf(), (torch.zeros(4, 8),), build.FLOATS["cuda"])
    parted = api.run_passes(
        imported.mod, target.cuda("sm_80").tvm(), [gpu.partition_products()]
    ).script()
    assert '"Composite": "cublas.matmul_transposed_bias"' in parted
    assert "R.nn.gelu(" in parted.partition("def main")[2]


@pytest.mark.parametrize(
    ("product", "taken"),
    [
        (lambda x, w, b: x @ w, True),
        (lambda x, w, b: x @ w + b, True),
        (lambda x, w, b: b + x @ w.T, True),
        (lambda x, w, b: x.reshape(2, 2, 8) @ w, True),
        (lambda x, w, b: x[:1] @ w, False),  # one row
        (lambda x, w, b: x @ w + b[:1], None),  # one element for all columns: without it
        (lambda x, w, b: w @ w, False),  # one tensor in two roles
        (lambda x, w, b: x.reshape(2, 2, 8) @ w.reshape(1, 8, 8), False),  # no matrix
        (lambda x, w, b: x.reshape(2, 2, 8) @ w.reshape(2, 4, 8).permute(0, 2, 1), False),
    ],
)
def test_only_what_its_generator_is_right_about_goes_to_cublas(
    product: Callable[..., torch.Tensor], taken: bool | None
) -> None:
    class Product(torch.nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return product(x, w, b)

    example = (torch.zeros(4, 8), torch.zeros(8, 8), torch.zeros(8))
    imported = import_module(Product(), example, build.FLOATS["cuda"])
    parted = api.run_passes(
        imported.mod, target.cuda("sm_80").tvm(), [gpu.partition_products()]
    ).script()
    assert ('"Composite": "cublas.matmul' in parted) is (taken is not False)
    if taken is None:
        assert "_bias" not in parted


def test_the_rung_of_cublas_says_that_a_tvm_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CUBLAS", ("relax.ext.nowhere",))
    assert gpu.library_products() == []
    wanted = program("prefill")
    mod = import_module(wanted.module, wanted.example, build.FLOATS["cuda"]).mod
    with pytest.raises(NotHere, match="built without cuBLAS") as caught:
        pipelines.pipeline("ladder-cublas").apply(mod, target.cuda("sm_80"))
    assert "USE_CUBLAS" in (caught.value.hint or "")


@pytest.mark.parametrize("name", (*PROGRAMS, "wide"))
def test_a_float16_model_is_imported_as_pytorch_computes_it(name: str) -> None:
    """On a CPU, by TVM's own lowering: what the importer and its repairs make of every operator."""
    cpu, wanted = target.detect_cpu(), program(name, "float16")
    imported = import_module(wanted.module, wanted.example, build.FLOATS["cuda"])
    lowered = pipelines.pipeline("none").apply(imported.mod, cpu)
    loaded = build.Loaded(
        api.compile_lowered(lowered, cpu.tvm()), build.Parameters(imported.params, "cpu")
    )
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(one.shape, generator=generator).to(one.dtype)
        if one.is_floating_point()
        else torch.randint(40, one.shape, generator=generator)
        for one in wanted.example
    ]
    with torch.inference_mode():
        expected = wanted.module(*inputs)
    got = loaded.run(*(loaded.prepare(one.numpy()) for one in inputs))
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.numpy().dtype == np.float16
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_block_asks_for_more_than_every_gpu_has(dtype: str) -> None:
    for name in (*PROGRAMS, "wide"):
        text = source(name, "optimized", "sm_80", dtype)
        for one in text.split('extern "C" __global__')[1:]:
            (threads,) = re.findall(r"__launch_bounds__\((\d+)\)", one)[:1]
            sizes = re.findall(r"__shared__ (?:alignas\(\d+\) )?(\w+) \w+\[(\d+)\]", one)
            width = {"float": 4, "half": 2, "int": 4, "bool": 1, "uchar": 1}
            assert int(threads) <= 1024
            assert sum(width[kind] * int(count) for kind, count in sizes) <= 48 * 1024


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in PROGRAMS), ("wide", "float16"), ("step", "float16")],
)
@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_made_for_an_architecture_assembles(
    name: str, arch: str, dtype: str, tmp_path: Path
) -> None:
    text = source(name, "optimized", arch, dtype)  # without a CUDA compiler this much is checked
    assert kernels(text)
    own = Path(sys.prefix) / "cuda" / "bin"  # of the lock's wheels, by make setup-assembler
    place = os.pathsep.join([str(own), os.environ["PATH"]])
    nvcc, ptxas = (shutil.which(name, path=place) for name in ("nvcc", "ptxas"))
    if nvcc is None or ptxas is None:
        cannot_run("no nvcc and ptxas: make setup-assembler")
    code = tmp_path / "kernels.cu"
    code.write_text(text)
    # Two steps, so that it is the assembler itself that is asked, for this very architecture.
    virtual = f"compute_{arch[3:]}"
    for command in (
        [nvcc, "-ptx", f"-arch={virtual}", "-O1", str(code), "-o", str(tmp_path / "kernels.ptx")],
        [ptxas, f"-arch={arch}", "-O1", str(tmp_path / "kernels.ptx"), "-o", str(tmp_path / "out")],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out").stat().st_size > 1000


def test_a_rung_of_a_gpu_is_refused_on_a_cpu() -> None:
    cpu = target.CompileTarget("llvm", "x86-64", (), 1)
    with pytest.raises(UsageFault, match="'ladder-weights' is for a GPU") as caught:
        pipelines.pipeline("ladder-weights").apply(None, cpu)
    assert "--gpu" in (caught.value.hint or "")


def test_the_ladder_of_a_gpu_has_rungs_of_its_own() -> None:
    assert tuple(f"tvm-{one.name}" for one in pipelines.GPU_LADDER) == catalog.GPU_LADDER
    for name in catalog.GPU_LADDER:
        backend = backends.load(name)
        assert isinstance(backend, Tvm)
        assert (f"tvm-{backend.pipeline}", "cuda" in backend.dtypes) == (name, True)
    assert "cpu" not in backends.load("tvm-ladder-attention").dtypes
    assert "cuda" not in backends.load("tvm-ladder-packed").dtypes
    assert ladder.backends(None, "cuda").split(",") == [*catalog.GPU_LADDER, breakeven.COLD]


def test_the_ladder_of_a_gpu_is_said_in_its_order() -> None:
    plain = record()
    spec = plain.spec.model_copy(update={"device": "cuda"})
    results = [result(name, 64.0 / 2**at) for at, name in enumerate(catalog.GPU_LADDER)]
    (line,) = ladder.lines(plain.model_copy(update={"spec": spec, "results": results}))
    assert "tvm-ladder-weights: 8.00 ms, 2.00x; tvm-ladder-attention: 4.00 ms, 2.00x" in line
