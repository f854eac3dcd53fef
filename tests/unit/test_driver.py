"""The stand-in for the driver's library: made where it is needed, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.job import driver
from tests.conftest import ROOT
from tests.unit import elves

CHILD = """
import ctypes, glob, sys
from pathlib import Path
from bench.job import driver
path = Path(sys.argv[1])
print("stub", driver.ensure([path]), driver.ensure([path]))
library = ctypes.CDLL(str(path))
print("answer", library.answer(), "driver says", library.ask_driver(), library.copy())
"""


def child(path: Path, temporary: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a process without the driver makes of ``path``; its temporary files in ``temporary``."""
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), **environ}
    command = [sys.executable, "-c", CHILD, str(path)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def no_driver_here() -> None:
    if driver._loads(driver.DRIVER):
        pytest.skip("an NVIDIA driver is here, and its absence is the subject")


def test_without_the_stub_the_library_does_not_load(tmp_path: Path) -> None:
    no_driver_here()
    made = elves.needing_driver(tmp_path / "libtvm.so")
    code = f"import ctypes; ctypes.CDLL({str(made)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "libcuda.so.1" in done.stderr


def test_with_the_stub_the_cpu_half_works_and_the_driver_refuses(tmp_path: Path) -> None:
    no_driver_here()
    made = elves.needing_driver(tmp_path / "libtvm.so")
    done = child(made, tmp_path / "tmp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["stub True True", "answer 42 driver says 34 34"]
    assert list((tmp_path / "tmp").iterdir()) == [], "the stub's file is left behind"


def test_a_need_at_second_hand_is_seen(tmp_path: Path) -> None:
    """As newer TVM compiled with CUDA: libtvm_runtime_extra needs the library that needs CUDA."""
    no_driver_here()
    cuda = elves.needing_driver(tmp_path / "libtvm_runtime_cuda.so")
    options = ["-Wl,--no-as-needed,--allow-shlib-undefined,-rpath,$ORIGIN", str(cuda)]
    source = elves.PLAIN.replace("answer", "extra")
    extra = elves.library(tmp_path / "libtvm_runtime_extra.so", source, *options)
    done = child(extra, tmp_path / "tmp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["stub True True", "answer 42 driver says 34 34"]


def test_a_real_driver_is_preferred(tmp_path: Path) -> None:
    made = elves.needing_driver(tmp_path / "libtvm.so")
    elves.library(tmp_path / "driver" / "libcuda.so.1", elves.DRIVER_FUNCTIONS)
    done = child(made, tmp_path / "tmp", LD_LIBRARY_PATH=str(tmp_path / "driver"))
    assert done.stdout.splitlines() == ["stub False False", "answer 42 driver says 0 0"]


def test_a_library_that_needs_no_driver_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = elves.library(tmp_path / "libplain.so")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert driver.ensure([made]) is False


def test_no_compiler_is_said_with_its_remedy(tmp_path: Path) -> None:
    no_driver_here()
    made = elves.needing_driver(tmp_path / "libtvm.so")
    done = child(made, tmp_path / "tmp", PATH="/nonexistent")
    assert done.returncode != 0
    assert "UsageFault" in done.stderr
    assert "neither an NVIDIA driver nor a compiler" in done.stderr


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    no_driver_here()
    made = elves.needing_driver(tmp_path / "libtvm.so")
    broken = tmp_path / "bin" / "g++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = child(made, tmp_path / "tmp", PATH=str(broken.parent))
    assert "g++ cannot make a stand-in for libcuda.so.1: no space left" in done.stderr


def test_the_wheels_libraries_are_found_without_importing_tvm() -> None:
    code = (
        "import sys; from bench.job import driver\n"
        "print(*(path.name for path in driver.tvm_libraries()))\n"
        "assert not {'tvm', 'tvm_ffi', 'torch'} & set(sys.modules)\n"
        "assert driver.ensure() is False\n"  # 0.27 does without the driver by itself
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("libtvm_compiler.so", "libtvm_runtime.so", "libtvm_runtime_extra.so")
    ]


@pytest.mark.parametrize("place", ["tvm", "tvm/lib", "../build", "../build/lib"])
def test_a_built_library_is_found_where_tvm_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    package = tmp_path / "python" / "tvm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    folder = (tmp_path / "python" / place).resolve()
    for name in ("libtvm.so", "libtvm_runtime.so"):
        elves.library(folder / name)
    monkeypatch.syspath_prepend(str(tmp_path / "python"))
    monkeypatch.delitem(sys.modules, "tvm", raising=False)
    monkeypatch.delenv("TVM_LIBRARY_PATH", raising=False)
    # v0.23 loads the one library that has the compiler in it.
    assert [p.resolve() for p in driver.tvm_libraries()] == [folder / "libtvm.so"]


def test_the_environments_library_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = elves.library(tmp_path / "libtvm_compiler.so")
    monkeypatch.setenv("TVM_LIBRARY_PATH", str(tmp_path))
    assert driver.tvm_libraries()[0] == made
