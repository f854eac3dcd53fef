"""Compiling inside an image's build: how many at once, with which options, and what failed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.build import compile, cuda, facts
from tests.conftest import ROOT

GIB = 2**30


def test_jobs_go_by_memory_and_cores() -> None:
    assert compile.jobs_for(64 * GIB, 8) == 8
    assert compile.jobs_for(8 * GIB, 8) == 4
    assert compile.jobs_for(GIB // 2, 8) == 1, "one at least, however little there is"


def test_free_memory_is_the_least_of_machine_and_cgroup(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    assert compile.free_memory(tmp_path, tmp_path) == 4096 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert compile.free_memory(tmp_path, tmp_path) == 4096 * 1024
    (tmp_path / "memory.max").write_text("1000\n")
    assert compile.free_memory(tmp_path, tmp_path) == 1000
    assert compile.free_memory() > 0, "this machine's own"


def test_asked_for_jobs_count(tmp_path: Path) -> None:
    asked = tmp_path / "jobs"
    assert compile.jobs(asked) >= 1
    asked.write_text("7\n")
    assert compile.jobs(asked) == 7
    asked.write_text("many")
    with pytest.raises(compile.Fault, match="many"):
        compile.jobs(asked)


def test_options_are_whole_or_refused() -> None:
    environ = {"LLVM_CONFIG": "/l/bin/llvm-config", "BUILD_TYPE": "Debug", "CUDA_FROM": "none"}
    options = compile.definitions(environ)
    assert "-DCMAKE_BUILD_TYPE=Debug" in options
    assert "-DGPT_FRONTEND_LLVM_CONFIG=/l/bin/llvm-config" in options
    assert not any("CUDA_ARCHITECTURES" in option for option in options)
    assert not any("TVM_VERSION" in option for option in options)
    assert "-DTVM_VERSION=0.26.0" in compile.definitions({**environ, "SOURCE_VERSION": "0.26.0"})
    with pytest.raises(compile.Fault, match="CUDA_ARCH"):
        compile.definitions({**environ, "CUDA_FROM": "wheels"})
    with_cuda = {**environ, "CUDA_FROM": "wheels", "CUDA_ARCH": "80;86"}
    options = compile.definitions(with_cuda)
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;86" in options
    with pytest.raises(compile.Fault, match="LLVM_CONFIG"):
        compile.definitions({})


def test_a_stub_lies_where_cmake_looks_for_it(tmp_path: Path) -> None:
    stub, toolkit = tmp_path / "stub", tmp_path / "cuda"
    for folder in (stub, toolkit):
        folder.mkdir()
    compile.lend_stub(stub, toolkit)
    assert not list(toolkit.iterdir()), "NVIDIA's own image has one already"
    (stub / "libcuda.so").touch()
    compile.lend_stub(stub, toolkit)
    compile.lend_stub(stub, toolkit)
    assert (toolkit / "lib64" / "stubs" / "libcuda.so").is_file()


def test_running_out_of_memory_is_called_so(capfd: pytest.CaptureFixture[str]) -> None:
    line = "g++: fatal error: Killed signal terminated program cc1plus"
    with pytest.raises(compile.Fault, match="out of memory with 8") as caught:
        compile.run(["sh", "-c", f"echo '{line}'; exit 1"], "compile", os.environ, 8)
    assert caught.value.hint.startswith("--jobs 4")
    with pytest.raises(compile.Fault, match="exit code 3"):
        compile.run(["sh", "-c", "exit 3"], "compile", os.environ, 8)
    assert line in capfd.readouterr().out


def test_a_failure_is_an_error_and_a_hint_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "build" / "compile.py")]
    command += ["--source", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


# --- CUDA's wheels as a toolkit ---

HEADER = """
#define cuMemAlloc                          cuMemAlloc_v2
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
typedef CUresult (CUDAAPI *PFN_cuOther)(int);
"""


def wheels(folder: Path) -> Path:
    root = folder / "nvidia" / "cu99"
    for name in ("bin/nvcc", "nvvm/bin/cicc", "lib/libcudart.so.99", "lib/libcudart_static.a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / "include").mkdir()
    (root / "include" / "cuda.h").write_text(HEADER)
    return folder


def test_wheels_become_a_toolkit_with_a_stub_beside_it(tmp_path: Path) -> None:
    toolkit, stub = tmp_path / "cuda", tmp_path / "stub"
    assert cuda.main([str(wheels(tmp_path / "wheels")), str(toolkit), str(stub)]) == 0
    assert os.access(toolkit / "bin" / "nvcc", os.X_OK)
    assert (toolkit / "lib64" / "libcudart.so").resolve().name == "libcudart.so.99"
    assert not list(toolkit.rglob("libcuda.so*")), "the driver's library is no part of a toolkit"
    library = stub / "libcuda.so"
    dynamic = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True).stdout
    assert "[libcuda.so.1]" in dynamic
    code = f"import ctypes; l = ctypes.CDLL('{library}'); print(l.cuInit(0), l.cuMemAlloc_v2(0))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["34", "34"], answer.stderr


def test_wheels_without_a_compiler_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda.main([str(tmp_path), str(tmp_path / "cuda"), str(tmp_path / "stub")]) == 1
    said = capsys.readouterr().err
    assert "error: 0 nvcc" in said and "hint: docker/locks/cuda.txt" in said


@pytest.mark.parametrize(
    ("compiler", "hint"),
    [
        (None, "hint: the base image's apt step installs it"),
        ("#!/bin/sh\necho cannot find ld >&2\nexit 1\n", "hint: the words are gcc's"),
    ],
)
def test_a_stub_that_fails_is_not_blamed_on_the_wheels(
    compiler: str | None,
    hint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin").mkdir()
    if compiler is not None:
        (tmp_path / "bin" / "gcc").write_text(compiler)
        (tmp_path / "bin" / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    folders = [str(wheels(tmp_path / "wheels")), str(tmp_path / "cuda"), str(tmp_path / "stub")]
    assert cuda.main(folders) == 1
    said = capsys.readouterr().err
    assert "error: no stub of libcuda" in said and hint in said and "cuda.txt" not in said
    assert not (tmp_path / "stub" / "stub.c").exists()


# --- what is known of a build ---


def test_facts_of_a_real_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library made by the real compiler, in a real repository with a real submodule."""
    monkeypatch.setattr(facts, "PLACES", (str(tmp_path / "super"), str(tmp_path / "none")))
    for name in ("a", "super"):
        folder = tmp_path / name
        folder.mkdir()
        run(folder, "git", "init", "--quiet")
        commit(folder)
    source = tmp_path / "super"
    allowed = ["-c", "protocol.file.allow=always"]
    run(source, "git", *allowed, "submodule", "--quiet", "add", str(tmp_path / "a"), "3rdparty/a")
    commit(source)
    build = source / "build"
    build.mkdir()
    (build / "config.cmake").write_text("config.cmake")
    (build / "a.cc").write_text('#include <cstdio>\nint f() { return std::puts("x"); }\n')
    run(build, "g++", "-shared", "-fPIC", "-g", "-Wl,--build-id", "-o", "libtvm.so", "a.cc")
    out = tmp_path / "out"
    out.mkdir()
    (build / ".ninja_log").write_text("x" * 2**21)  # of times, so of another length each time
    (source / ".git" / "pack").write_text("x" * 2**21)
    (build / "large.o").write_bytes(b"x" * 2**20)
    assert facts.main(["--source", str(source), "--out", str(out)]) == 0
    told = json.loads((out / "built" / "facts.json").read_text())
    head = run(tmp_path / "a", "git", "rev-parse", "HEAD").strip()
    assert told["tvm"]["submodules"] == {"3rdparty/a": head}
    assert told["tvm"]["commit"] == run(source, "git", "rev-parse", "HEAD").strip()
    notes = run(build, "readelf", "--notes", "libtvm.so")
    assert told["libraries"]["libtvm.so"]["build_id"] in notes
    assert told["libraries"]["libtvm.so"]["bytes"] == (build / "libtvm.so").stat().st_size
    assert told["build_stage_bytes"] == 2**20, "in whole MiB, what is the same in every build"
    assert told["versions"]["gcc"]
    assert (out / "built" / "config.cmake").read_text() == "config.cmake"
    if shutil.which("dpkg"):
        assert "libc6" in (out / "apt.txt").read_text().split()


def test_no_library_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert facts.main(["--source", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "error: no libtvm*.so" in capsys.readouterr().err


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def commit(folder: Path) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    run(folder, "git", *who, "commit", "--quiet", "--allow-empty", "--all", "-m", "x")
