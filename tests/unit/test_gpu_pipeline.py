"""What is compiled for a GPU, on a machine without one: which kernels, and that they assemble."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import catalog
from bench.errors import UsageFault
from bench.host import ladder
from bench.job import backends, decoder, gpt
from bench.job.backends.base import Program
from bench.job.backends.tvm import Tvm
from bench.job.compile import api, pipelines, target
from bench.job.compile.importer import import_module
from tests.unit.cuda_on_cpu import cuda_sources
from tests.unit.samples import record, result

ARCHS = ("sm_80", "sm_86", "sm_90")
PROGRAMS = ("prefill", "step")
CONTEXT = 300  # more than one part of a cache


@functools.cache
def program(name: str) -> Program:
    """A function of a small GPT: a prompt of 64, or a token after it."""
    config = gpt.preset("gpt-nano")
    return decoder.programs(gpt.build(config, 1), 1, 64, CONTEXT)[name]


@functools.cache
def source(name: str, pipeline: str, arch: str) -> str:
    """All CUDA that ``pipeline`` makes of a program; its module's functions as comments."""
    gpu, wanted = target.cuda(arch), program(name)
    lowered = pipelines.pipeline(pipeline).apply(
        import_module(wanted.module, wanted.example).mod, gpu
    )
    names = sorted(str(var.name_hint) for var in lowered.functions)
    executable = api.compile_lowered(lowered, gpu.tvm())
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


def test_no_block_asks_for_more_than_every_gpu_has() -> None:
    for name in PROGRAMS:
        text = source(name, "optimized", "sm_80")
        for one in text.split('extern "C" __global__')[1:]:
            (threads,) = re.findall(r"__launch_bounds__\((\d+)\)", one)[:1]
            sizes = re.findall(r"__shared__ (?:alignas\(\d+\) )?(\w+) \w+\[(\d+)\]", one)
            width = {"float": 4, "half": 2, "int": 4, "bool": 1, "uchar": 1}
            assert int(threads) <= 1024
            assert sum(width[kind] * int(count) for kind, count in sizes) <= 48 * 1024


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_made_for_an_architecture_assembles(name: str, arch: str, tmp_path: Path) -> None:
    nvcc, ptxas = shutil.which("nvcc"), shutil.which("ptxas")
    text = source(name, "optimized", arch)  # without a CUDA compiler this much is checked
    assert kernels(text)
    if nvcc is None or ptxas is None:
        pytest.skip("no CUDA toolkit here: tests/docker/test_cuda_wheels.py has one")
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
        assert (f"tvm-{backend.pipeline}", "cuda" in backend.devices) == (name, True)
    assert "cpu" not in backends.load("tvm-ladder-attention").devices
    assert "cuda" not in backends.load("tvm-ladder-packed").devices
    assert ladder.backends(None, "cuda").split(",") == list(catalog.GPU_LADDER)


def test_the_ladder_of_a_gpu_is_said_in_its_order() -> None:
    plain = record()
    spec = plain.spec.model_copy(update={"device": "cuda"})
    results = [result(name, 64.0 / 2**at) for at, name in enumerate(catalog.GPU_LADDER)]
    (line,) = ladder.lines(plain.model_copy(update={"spec": spec, "results": results}))
    assert "tvm-ladder-weights: 8.00 ms, 2.00x; tvm-ladder-attention: 4.00 ms, 2.00x" in line
