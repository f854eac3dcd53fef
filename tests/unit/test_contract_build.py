"""The checks of a build: on libraries that g++ made and a cache that cmake wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.build import contract
from bench.build.cmake_cache import read_cache
from bench.contract import Findings
from tests.conftest import ROOT
from tests.unit import elves

LLVM = "/llvm/bin/llvm-config"
COMMIT = "1" * 40
PROJECT = """\
cmake_minimum_required(VERSION 3.18)
project(tvm CXX)
include(${CMAKE_BINARY_DIR}/config.cmake)
if(NOT DEFINED USE_CUDA)
  set(USE_CUDA OFF CACHE STRING "as tvm_option does")
endif()
add_library(tvm SHARED tvm.cc)
target_link_options(tvm PRIVATE -Wl,--build-id=sha1)
"""


@dataclass(frozen=True)
class Build:
    """One build folder as an image keeps it, and what was promised of it."""

    folder: Path
    library: Path
    expected: dict[str, Any]

    def judge(self, **changed: Any) -> dict[str, contract.Check]:
        """Every check by its name, with other promises in place of the kept ones."""
        checks = contract.examine(self.folder, [self.library], {**self.expected, **changed})
        assert len({one.name for one in checks}) == len(checks), "two checks of one name"
        return {one.name: one for one in checks}

    def facts(self) -> dict[str, Any]:
        return contract.read_facts(self.folder)

    def tell(self, facts: dict[str, Any]) -> None:
        (self.folder / "facts.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project like TVM, configured by the project's own config.cmake and compiled: Debug."""
    source = tmp_path_factory.mktemp("source")
    (source / "tvm.cc").write_text(elves.PLAIN)
    (source / "CMakeLists.txt").write_text(PROJECT)
    folder = source / "build"
    folder.mkdir()
    shutil.copy(ROOT / "cmake" / "config.cmake", folder)
    options = [f"-DGPT_FRONTEND_LLVM_CONFIG={LLVM}", "-DGPT_FRONTEND_BUILD_TYPE=Debug"]
    options += ["-DGPT_FRONTEND_CUDA=ON", "-DGPT_FRONTEND_CUDA_ARCHITECTURES=80;86"]
    tools = Path(sys.executable).parent
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
    command = [str(tools / "cmake"), *generator, *options, "-S", str(source), "-B", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([str(tools / "cmake"), "--build", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def build(compiled: Path, tmp_path: Path) -> Build:
    """A copy of that build with true facts beside it: every promise is kept."""
    for name in ("CMakeCache.txt", "libtvm.so"):
        shutil.copy(compiled / name, tmp_path)
    gcc = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    build_id = contract.build_id(tmp_path / "libtvm.so")
    facts = {
        "tvm": {"commit": COMMIT, "submodules": {"3rdparty/a": "2" * 40, "3rdparty/a/b": "3" * 40}},
        "versions": {
            "cmake": "3.31.10",
            "gcc": gcc,
            "python": "3.11.2",
            "nvcc": "12.4.131",
            "llvm": "10.0.0",
        },
        "libraries": {"libtvm.so": {"build_id": build_id, "bytes": 1}},
    }
    expected = {
        "build_type": "Debug",
        "llvm_config": LLVM,
        "llvm_version": "10.0.0",
        "cuda": True,
        "cuda_architectures": ["86", "80"],
        "commit": COMMIT,
        "submodules": {"3rdparty/a": "2" * 40},
        "cmake": ">=3.24,<4",
        "gcc": gcc.split(".")[0],
        "python": "3.11",
        "nvcc": "12.4",
    }
    made = Build(tmp_path, tmp_path / "libtvm.so", expected)
    made.tell(facts)
    return made


def test_a_build_that_keeps_its_promises(build: Build) -> None:
    checks = build.judge()
    assert {name for name, one in checks.items() if not one.ok} == set()
    assert set(checks) == {
        *("build type", "llvm-config", "USE_CUDA", "CUDA architectures"),
        *("debug symbols of libtvm.so", "optimisation of libtvm.so"),
        *("shared libraries of libtvm.so", "LLVM inside libtvm.so", "build id of libtvm.so"),
        *("cmake of the build", "gcc of the build", "python of the build", "nvcc of the build"),
        *("llvm of the build", "commit", "submodules"),
    }


@pytest.mark.parametrize(
    ("promise", "broken", "names"),
    [
        # The compiler's own words disagree with the cache here, as they should.
        ("build_type", "RelWithDebInfo", {"build type", "optimisation of libtvm.so"}),
        ("build_type", "Release", {"build type"}),
        ("llvm_config", "/usr/bin/llvm-config", {"llvm-config"}),
        ("llvm_version", "14", {"llvm of the build"}),
        ("cuda", False, {"USE_CUDA"}),
        ("cuda_architectures", ["80"], {"CUDA architectures"}),
        ("cuda_architectures", ["80", "86", "90"], {"CUDA architectures"}),
        ("commit", "9" * 40, {"commit"}),
        ("submodules", {"3rdparty/a": "4" * 40}, {"submodules"}),
        ("submodules", {"3rdparty/a": "2" * 40, "3rdparty/c": "5" * 40}, {"submodules"}),
        ("submodules", {"3rdparty/other": "2" * 40}, {"submodules"}),
        ("cmake", ">=3.32,<4", {"cmake of the build"}),
        ("gcc", "4", {"gcc of the build"}),
        ("python", "3.1", {"python of the build"}),
        ("nvcc", "12.9", {"nvcc of the build"}),
    ],
)
def test_a_promise_that_is_broken_fails_alone(
    build: Build, promise: str, broken: object, names: set[str]
) -> None:
    failed = {name: one for name, one in build.judge(**{promise: broken}).items() if not one.ok}
    assert set(failed) == names
    assert all(one.hint for one in failed.values())


def test_what_is_not_promised_is_not_checked(build: Build) -> None:
    nothing = dict.fromkeys(build.expected)
    assert set(build.judge(**nothing)) == {
        *("shared libraries of libtvm.so", "LLVM inside libtvm.so", "build id of libtvm.so"),
    }


def set_cache(build: Build, name: str, value: str | None) -> None:
    lines = (build.folder / "CMakeCache.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{name}:")]
    assert len(kept) < len(lines), f"cmake wrote no {name}"
    if value is not None:
        kept.append(f"{name}:STRING={value}")
    (build.folder / "CMakeCache.txt").write_text("\n".join(kept) + "\n")


@pytest.mark.parametrize(
    ("entry", "value", "name", "seen"),
    [
        ("CMAKE_BUILD_TYPE", "", "build type", "not set"),
        ("CMAKE_BUILD_TYPE", "Release", "build type", "Release"),
        ("USE_LLVM", None, "llvm-config", "not in the cache"),
        ("USE_LLVM", "ON", "llvm-config", "ON"),
        ("USE_LLVM", f"{LLVM}-14", "llvm-config", f"{LLVM}-14"),
        ("GPT_FRONTEND_LLVM_CONFIG", "/other", "llvm-config", "/other"),
        ("USE_CUDA", "OFF", "USE_CUDA", "off"),
        ("CMAKE_CUDA_ARCHITECTURES", "native", "CUDA architectures", "native"),
        ("CMAKE_CUDA_ARCHITECTURES", None, "CUDA architectures", "not set"),
    ],
)
def test_a_cache_that_says_otherwise(
    build: Build, entry: str, value: str | None, name: str, seen: str
) -> None:
    set_cache(build, entry, value)
    checks = build.judge()
    assert not checks[name].ok
    assert seen in checks[name].seen


def replace(build: Build, *options: str, source: str = elves.PLAIN) -> None:
    elves.library(build.library, source, *options)


@pytest.mark.parametrize("options", [[], ["-g", "-Wl,--strip-debug"]])
def test_no_symbols(build: Build, options: list[str]) -> None:
    replace(build, *options)
    assert not build.judge()["debug symbols of libtvm.so"].ok
    assert "debug symbols of libtvm.so" not in build.judge(build_type="Release")


def test_an_optimised_build_is_not_debug(build: Build) -> None:
    replace(build, "-g", "-O2")
    set_cache(build, "CMAKE_BUILD_TYPE", "RelWithDebInfo")
    checks = build.judge(build_type="RelWithDebInfo")
    assert checks["debug symbols of libtvm.so"].ok
    assert checks["optimisation of libtvm.so"].ok
    set_cache(build, "CMAKE_BUILD_TYPE", "Debug")  # a cache that was edited, or shadowed
    failed = build.judge()["optimisation of libtvm.so"]
    assert (failed.ok, failed.seen) == (False, "-O2")


def test_another_library_in_its_place(build: Build) -> None:
    replace(build, "-g", source='extern "C" int answer() { return 41; }\n')
    check = build.judge()["build id of libtvm.so"]
    assert (check.ok, check.wanted) == (False, build.facts()["libraries"]["libtvm.so"]["build_id"])
    replace(build, "-g", "-Wl,--build-id=none")
    assert build.judge()["build id of libtvm.so"].seen == "none"


def test_a_build_id_that_was_never_written_is_no_match(build: Build) -> None:
    replace(build, "-g", "-Wl,--build-id=none")
    facts = build.facts()
    facts["libraries"]["libtvm.so"]["build_id"] = ""
    build.tell(facts)
    assert not build.judge()["build id of libtvm.so"].ok


def test_a_missing_library_is_named(build: Build) -> None:
    elves.needing(
        build.library, "libgone.so.3", elves.PLAIN, 'extern "C" int other() { return 1; }'
    )
    check = build.judge()["shared libraries of libtvm.so"]
    assert (check.ok, check.seen) == (False, "not found: libgone.so.3")


def test_only_the_driver_may_be_missing_and_only_with_cuda(build: Build) -> None:
    elves.needing_driver(build.library)
    if build.judge()["shared libraries of libtvm.so"].seen == "all found":
        pytest.skip("an NVIDIA driver is here, and its absence is the subject")
    checks = build.judge()
    assert checks["shared libraries of libtvm.so"].ok
    assert checks["shared libraries of libtvm.so"].seen == "not found: libcuda.so.1"
    assert not build.judge(cuda=False)["shared libraries of libtvm.so"].ok


def test_a_library_that_is_loaded_before_is_looked_for_where_it_is(build: Build) -> None:
    source = 'extern "C" int other() { return 1; }'
    elves.needing(build.library, "libffi_like.so", elves.PLAIN, source)
    elsewhere = elves.library(build.folder / "ffi" / "libffi_like.so", source).parent
    title = "shared libraries of libtvm.so"
    assert not contract.unresolved(title, build.library, cuda=True, search=[]).ok
    assert contract.unresolved(title, build.library, cuda=True, search=[elsewhere]).ok


def test_llvm_in_a_library_of_its_own_breaks_a_static_promise(build: Build) -> None:
    source = 'extern "C" int other() { return 1; }'
    elves.needing(build.library, "libLLVM-14.so.1", elves.PLAIN, source)
    check = build.judge()["LLVM inside libtvm.so"]
    assert (check.ok, check.seen) == (False, "libLLVM-14.so.1")
    set_cache(build, "USE_LLVM", LLVM)  # not asked to be static
    assert "LLVM inside libtvm.so" not in build.judge()


@pytest.mark.parametrize("damage", ["absent", "{", "[]", "{}"])
def test_facts_that_cannot_be_read_fail_what_needs_them_and_nothing_else(
    build: Build, damage: str
) -> None:
    facts = build.folder / "facts.json"
    facts.unlink() if damage == "absent" else facts.write_text(damage)
    checks = build.judge()
    failed = {name for name, one in checks.items() if not one.ok}
    of_the_build = {name for name in checks if name.endswith("of the build")}
    assert failed == {"commit", "submodules", "build id of libtvm.so", *of_the_build}
    assert all("cannot tell" in checks[name].seen for name in failed)


@pytest.mark.parametrize("content", [None, b"", b"no library", b"\x7fELF\x02\x01" + b"\0" * 30])
def test_no_library_fails_its_checks_and_no_other(build: Build, content: bytes | None) -> None:
    build.library.unlink()
    if content is not None:
        build.library.write_bytes(content)
    failed = {name for name, one in build.judge().items() if not one.ok}
    assert failed and all(name.endswith("libtvm.so") for name in failed)


def test_the_cache_is_read_as_cmake_wrote_it(build: Build) -> None:
    cache = read_cache(build.folder / "CMakeCache.txt")
    assert cache["CMAKE_PROJECT_NAME"] == "tvm"
    assert cache["USE_LLVM"] == f"{LLVM} --ignore-libllvm --link-static"
    assert not any(name.startswith(("#", "/")) for name in cache)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(build: Build, tmp_path: Path) -> Run:
    def run(**changed: Any) -> subprocess.CompletedProcess[str]:
        expected = tmp_path / "expected.json"
        expected.write_text(json.dumps({**build.expected, **changed}))
        argv = ["--built", build.folder, "--library", build.library, "--expected", expected]
        argv += ["--record", tmp_path / "out.json"]
        return subprocess.run(
            # -S: no site-packages, as in the stage that compiles
            [sys.executable, "-S", "-m", "bench.build.contract", *map(str, argv)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return run


def test_the_command_writes_findings_with_the_standard_library_alone(
    command: Run, tmp_path: Path
) -> None:
    done = command()
    assert done.returncode == 0, done.stdout + done.stderr
    findings = Findings.model_validate_json((tmp_path / "out.json").read_bytes())
    assert findings.checks and all(one.ok for one in findings.checks)
    assert findings.facts["build"]["tvm"]["commit"] == COMMIT
    assert len(done.stdout.splitlines()) == len(findings.checks)


def test_the_command_fails_with_the_remedy_of_each(command: Run, tmp_path: Path) -> None:
    done = command(build_type="Release", python="3.8")
    assert done.returncode == 1
    assert "error: the build breaks its contract: build type, python of the build" in done.stderr
    assert "FAILED  build type: Debug (wanted: Release)\nhint: " in done.stdout
    assert "Traceback" not in done.stderr
    assert Findings.model_validate_json((tmp_path / "out.json").read_bytes()).checks


def test_a_promise_that_cannot_be_read_is_an_error(command: Run, tmp_path: Path) -> None:
    command()
    argv = ["--built", ".", "--library", "x", "--record", "y", "--expected", "/nonexistent"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.build.contract", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot read /nonexistent")
