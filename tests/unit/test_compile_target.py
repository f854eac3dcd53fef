"""The machine that code is generated for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench import limits
from bench.errors import JobFailed, UsageFault
from bench.job import gpt
from bench.job.compile import api, build, cpu, cudacc, target


def test_the_cpu_is_one_that_llvm_knows() -> None:
    here = target.detect_cpu()
    assert here.kind == "llvm"
    assert here.mcpu in api.known_cpus()
    assert here.cores >= 1
    assert json.loads(json.dumps(here.to_dict())) == here.to_dict()
    assert target.detect_cpu(cores=3).cores == 3
    with pytest.raises(UsageFault):
        target.detect_cpu(cores=0)


def test_an_unknown_cpu_keeps_its_vector_width(monkeypatch: pytest.MonkeyPatch) -> None:
    here = target.detect_cpu()
    monkeypatch.setattr(api, "host_cpu", lambda: "cpu-of-next-year")
    stand_in = target.detect_cpu()
    assert stand_in.mcpu in api.known_cpus()
    assert (stand_in.features, stand_in.lanes) == (here.features, here.lanes)


def test_an_unknown_cpu_of_unknown_features_is_the_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "host_cpu", lambda: "cpu-of-next-year")
    monkeypatch.setattr(cpu, "host_flags", frozenset)
    assert target.detect_cpu().mcpu in ("x86-64", "generic")


@pytest.mark.parametrize(
    ("features", "lanes", "registers"),
    [(("avx512f", "avx2"), 16, 32), (("avx2", "fma"), 8, 16), ((), 4, 16)],
)
def test_vector_width_follows_the_features(
    features: tuple[str, ...], lanes: int, registers: int
) -> None:
    machine = target.CompileTarget("llvm", "x86-64", features, 2)
    assert (machine.lanes, machine.registers) == (lanes, registers)


@pytest.mark.parametrize(
    ("files", "seconds"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_cgroup_quota_lowers_the_cores(
    files: dict[str, str], seconds: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    unlimited = limits.available_cores(tmp_path / "none")
    cores = limits.available_cores(tmp_path)
    assert cores == (unlimited if seconds is None else min(unlimited, 2 if seconds > 1 else 1))


def test_an_unknown_gpu_architecture_is_refused() -> None:
    with pytest.raises(UsageFault, match="sm_999") as caught:
        target.cuda("sm_999")
    assert "sm_90" in (caught.value.hint or "")


def test_without_a_cuda_compiler_the_toolkit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVM_CUDA_COMPILE_MODE", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = gpt.preset("gpt-nano")
    with pytest.raises(UsageFault) as caught:
        build.compile_module(
            gpt.build(config, 1),
            (gpt.tokens_for(config, 1, 3, 1),),
            "optimized",
            target.cuda("sm_90"),
        )
    assert "apache-tvm[cuda]" in (caught.value.hint or "")


def test_what_the_cuda_compiler_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, arch: str, compiler: str) -> bytes:
        raise RuntimeError(f"nvcc fatal error: unsupported gpu architecture '{arch}'")

    monkeypatch.setattr(api, "uncompiled_cuda", lambda executable: ["kernel"])
    monkeypatch.setattr(api, "cuda_machine_code", refuse)
    monkeypatch.setenv("TVM_CUDA_COMPILE_MODE", "nvcc")
    with pytest.raises(JobFailed, match="sm_60"):
        cudacc.check(object(), target.cuda("sm_60"))


@pytest.mark.parametrize(
    "text",
    [
        "extern void f();\nCompilation error:\nnvcc fatal   : Unsupported gpu architecture 'x'\n",
        "NVRTC compilation failed:\nnvrtc: error: invalid value for --gpu-architecture 'x'\n",
    ],
)
def test_what_it_says_while_tvm_generates_code_is_passed_on(text: str) -> None:
    with (
        pytest.raises(JobFailed, match=r"refuses the kernels: .*'x'"),
        cudacc.refusals(target.cuda("sm_60")),
    ):
        raise RuntimeError(text)


def test_other_failures_of_tvm_are_not_the_cuda_compilers() -> None:
    with pytest.raises(RuntimeError, match="layout"), cudacc.refusals(target.cuda("sm_60")):
        raise RuntimeError("unknown layout")
    with pytest.raises(RuntimeError, match="C compiler"), cudacc.refusals(target.detect_cpu()):
        raise RuntimeError("Compilation error:\nthe C compiler")


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_of_the_tvm_api_is_there(name: str) -> None:
    assert getattr(api, name) is not None


def test_the_toolkit_is_what_nvidias_wheels_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NVRTC comes without an nvcc; and as it was, afterwards."""
    root = tmp_path / "nvidia" / "cu13"
    (root / "include").mkdir(parents=True)
    (root / "include" / "cuda_runtime.h").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TVM_CUDA_COMPILE_MODE", "nvrtc")
    monkeypatch.setenv("TVM_CUDA_NVRTC_EXTRA_OPTS", "-lineinfo")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    gpu = target.CompileTarget("cuda", "generic", (), 1, "sm_90")
    before = dict(os.environ)
    with cudacc.compiler_for(gpu):
        assert os.environ["CUDA_PATH"] == str(root)
        assert os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"] == f"-lineinfo -I{root}/include/cccl"
    assert dict(os.environ) == before
    monkeypatch.setenv("CUDA_PATH", "/opt/cuda")
    with cudacc.compiler_for(gpu):
        assert os.environ["CUDA_PATH"] == "/opt/cuda"
        assert os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"] == "-lineinfo"
