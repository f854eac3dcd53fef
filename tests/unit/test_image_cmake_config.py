"""cmake/config.cmake gives TVM's build what it must, and stops where something is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[2] / "cmake" / "config.cmake"
LLVM = "/usr/bin/llvm-config"


def evaluate(tmp_path: Path, **given: str) -> subprocess.CompletedProcess[str]:
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent))
    assert cmake is not None, "cmake is in the locks: make setup, and run the tests from .venv"
    script = tmp_path / "show.cmake"
    script.write_text(
        f'include("{CONFIG}")\n'
        "foreach(name CMAKE_BUILD_TYPE USE_LLVM HIDE_PRIVATE_SYMBOLS USE_CUDA"
        " CMAKE_CUDA_ARCHITECTURES USE_BLAS)\n"
        '  message("${name}=${${name}}")\n'
        "endforeach()\n"
    )
    options = [f"-DGPT_FRONTEND_{name}={value}" for name, value in given.items()]
    return subprocess.run(
        [cmake, *options, "-P", str(script)], capture_output=True, text=True, env={}
    )


def values(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stderr.splitlines())


def test_cpu_links_llvm_statically_and_hides_it(tmp_path: Path) -> None:
    got = values(evaluate(tmp_path, LLVM_CONFIG=LLVM))
    assert got["USE_LLVM"] == f"{LLVM} --ignore-libllvm --link-static"
    assert got["HIDE_PRIVATE_SYMBOLS"] == "ON"
    assert got["CMAKE_BUILD_TYPE"] == "Debug"
    assert got["USE_CUDA"] == "OFF"
    assert got["USE_BLAS"] == "none"


def test_cuda_takes_the_architectures_given(tmp_path: Path) -> None:
    got = values(evaluate(tmp_path, LLVM_CONFIG=LLVM, CUDA="ON", CUDA_ARCHITECTURES="80;86"))
    assert (got["USE_CUDA"], got["CMAKE_CUDA_ARCHITECTURES"]) == ("ON", "80;86")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "GPT_FRONTEND_LLVM_CONFIG"),
        ({"LLVM_CONFIG": LLVM, "CUDA": "ON"}, "GPT_FRONTEND_CUDA_ARCHITECTURES"),
    ],
)
def test_stops_where_something_is_missing(
    tmp_path: Path, given: dict[str, str], missing: str
) -> None:
    done = evaluate(tmp_path, **given)
    assert done.returncode != 0
    assert f"{missing} is not set" in done.stderr
