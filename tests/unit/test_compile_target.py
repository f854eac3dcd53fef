"""The machine that code is generated for."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import limits
from bench.errors import JobFailed, UsageFault
from bench.job import gpt, models, modes
from bench.job.backends.base import Compiled
from bench.job.backends.tvm import TVM_DEFAULT
from bench.job.compile import api, build, cpu, cudacc, target
from bench.record import JobSpec


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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about the CPUs of x86-64")
def test_another_cpu_can_be_named_and_its_code_runs_here(tmp_path: Path) -> None:
    named = target.detect_cpu(2, "haswell")
    assert (named.mcpu, named.lanes, named.registers) == ("haswell", 8, 16)
    if cpu.lacking(api.cpu_features("haswell"), cpu.host_flags()):
        pytest.skip("this CPU is older than Haswell")
    target.require_here("haswell")
    config = gpt.preset("gpt-nano")
    model = gpt.build(config, 1)
    tokens = gpt.tokens_for(config, 1, 3, 1)
    done = build.compile_module(model, (tokens,), "optimized", named)
    done.export_library(tmp_path / "lib.so")
    loaded = build.load(tmp_path / "lib.so", build.Parameters(done.params, "cpu"))
    np.testing.assert_allclose(loaded(tokens.numpy()), model(tokens), rtol=1e-4, atol=1e-4)
    # Its registers are the narrow ones, although this CPU may have others.
    assembly = subprocess.run(
        ["objdump", "-d", str(tmp_path / "lib.so")], capture_output=True, text=True
    ).stdout
    assert "%ymm" in assembly and "%zmm" not in assembly


def test_a_cpu_that_llvm_does_not_know_is_refused_with_one_it_does() -> None:
    with pytest.raises(UsageFault, match="'haswel'") as caught:
        target.detect_cpu(mcpu="haswel")
    assert "haswell" in (caught.value.hint or "")
    with pytest.raises(UsageFault, match="nonsense"):
        target.require_here("nonsense")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about the CPUs of x86-64")
@pytest.mark.parametrize(
    ("mcpu", "hidden", "missing"),
    [
        ("skylake-avx512", "avx512", "avx512bw, avx512cd, avx512dq, avx512f, avx512vl"),
        ("sapphirerapids", "amx", "amx-tile"),
        ("haswell", "fma", "fma"),
    ],
)
def test_code_for_what_this_cpu_lacks_is_refused_before_it_can_die_of_it(
    mcpu: str, hidden: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = frozenset(cpu._FEATURES.values())
    monkeypatch.setattr(cpu, "host_flags", lambda: everything)
    target.require_here(mcpu)
    flags = frozenset(one for one in everything if not one.startswith(hidden))
    monkeypatch.setattr(cpu, "host_flags", lambda: flags)
    with pytest.raises(UsageFault, match=f"for {mcpu}, and this CPU lacks {missing}$") as caught:
        target.require_here(mcpu)
    assert "--mcpu" in (caught.value.hint or "")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about the CPUs of x86-64")
def test_what_is_in_the_store_for_a_better_cpu_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a store copied from another machine has it, or one on a disk that machines share."""
    spec = JobSpec(model="gpt-nano", seq_len=4, threads=2, mcpu="skylake-avx512")
    programs = modes.programs(spec, models.build(spec))
    kept = TVM_DEFAULT.compile_only(spec, programs)  # compiling for it needs no such CPU
    assert kept.target["mcpu"] == "skylake-avx512"
    flags = frozenset(one for one in cpu._FEATURES.values() if not one.startswith("avx512"))
    monkeypatch.setattr(cpu, "host_flags", lambda: flags)
    monkeypatch.setattr(build, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UsageFault, match="lacks avx512bw"):
        TVM_DEFAULT.prepare(spec, programs)
    # And where the request does not say so, the artefact does.
    monkeypatch.setattr(target, "detect_cpu", lambda *_: target.CompileTarget(**kept_target(kept)))
    with pytest.raises(UsageFault, match="lacks avx512bw"):
        TVM_DEFAULT.prepare(spec.model_copy(update={"mcpu": None}), programs)


def kept_target(kept: Compiled) -> dict[str, Any]:
    return {**kept.target, "features": tuple(kept.target["features"])}
