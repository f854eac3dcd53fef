"""The checks inside the image: on the real wheel, and on impostors of tvm that break promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.build import contract as build_contract
from bench.contract import Check, Expected, Findings
from bench.host import pins
from bench.job import contract
from bench.job.contract import Examination, NoAnswer
from tests.conftest import ROOT
from tests.unit import elves

PINNED = pins.load().versions
WHEEL = Expected(
    profile="cpu",
    device="cpu",
    tvm_from="wheel",
    tvm=PINNED.tvm,
    tvm_ffi=PINNED.tvm_ffi,
    torch=PINNED.torch,
    cuda=False,
    python=".".join(map(str, sys.version_info[:2])),
)
SOURCE = Expected(
    profile="llvm10",
    device="cuda",
    tvm_from="source",
    tvm="0.23.0",
    tvm_ffi="0.1.8",
    torch=PINNED.torch,
    cuda=True,
    cuda_architectures=("86",),
    build_type="Debug",
    llvm_version="10.0.0",
    llvm_config="/llvm/bin/llvm-config",
    commit="1" * 40,
)


def run(expected: Expected, folder: Path, **environ: str) -> tuple[Findings, str]:
    """The whole contract as the image runs it: its findings, and its output."""
    (folder / "expected.json").write_text(expected.model_dump_json())
    argv = ["--expected", folder / "expected.json", "--out", folder / "out.json"]
    argv += ["--built", folder / "built"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.job.contract", *map(str, argv)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )
    assert done.returncode == 0, done.stderr
    return Findings.model_validate_json((folder / "out.json").read_bytes()), done.stdout


def failed(checks: list[Check] | tuple[Check, ...]) -> dict[str, Check]:
    return {one.name: one for one in checks if not one.ok}


def test_the_wheel_keeps_its_promises(tmp_path: Path) -> None:
    findings, said = run(WHEEL, tmp_path)
    assert failed(findings.checks) == {}
    names = [one.name for one in findings.checks]
    assert len(set(names)) == len(names)
    assert {"tvm imports", "tvm then torch", "torch then tvm", "GPT on the CPU"} <= set(names)
    assert findings.facts["gpt_cpu"]["parity"]["passed"] is True
    assert all(one["build_id"] for one in findings.facts["tvm"]["libraries"].values())
    assert "progress 5 5 done" in said


FAKE = """
import ctypes, types
__version__ = {version!r}
ctypes.CDLL({library!r})
support = types.SimpleNamespace(libinfo=lambda: {info!r})
def get_global_func(name, allow_missing): return {registered!r}.get(name)
"""
INFO = {"USE_LLVM": "/llvm/bin/llvm-config --link-static", "USE_CUDA": "ON"}
INFO["LLVM_VERSION"] = "10.0.0"


class Impostor:
    """Packages called tvm, tvm_ffi and torch, and a build that they are said to come from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.library = elves.library(root / "site" / "tvm" / "libtvm.so")
        self.built = root / "built"
        self.built.mkdir()
        build_id = build_contract.build_id(self.library)
        self.facts: dict[str, Any] = {"libraries": {"libtvm.so": {"build_id": build_id}}}
        self.registered = {"support.GetLibInfo": 1, "target.build.llvm": 1}
        self.install()

    def install(self, version: str = "0.23.0", **info: str) -> None:
        site = self.root / "site"
        for name in ("tvm", "tvm/target", "tvm_ffi", "torch"):
            (site / name).mkdir(parents=True, exist_ok=True)
            (site / name / "__init__.py").write_text("")
        text = FAKE.format(
            version=version,
            library=str(self.library),
            info={**INFO, **info},
            registered=self.registered,
        )
        (site / "tvm" / "__init__.py").write_text(text)
        codegen = "def llvm_version_major(allow_none): return 10\n"
        (site / "tvm" / "target" / "codegen.py").write_text(codegen)
        (site / "tvm_ffi" / "__init__.py").write_text("__version__ = '0.1.8.post2'\n")
        (self.built / "facts.json").write_text(json.dumps(self.facts))

    @property
    def path(self) -> str:
        return f"{self.root / 'site'}:{ROOT}"


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Impostor:
    made = Impostor(tmp_path)
    monkeypatch.setenv("PYTHONPATH", made.path)  # for the children
    return made


def identity(impostor: Impostor, **promised: Any) -> dict[str, Check]:
    expected = SOURCE.model_copy(update=promised)
    return {one.name: one for one in Examination(expected, impostor.built).identity()}


def test_a_source_build_is_known_by_what_it_says_and_by_its_build_id(impostor: Impostor) -> None:
    checks = identity(impostor)
    assert failed(tuple(checks.values())) == {}
    assert set(checks) == {
        *("tvm imports", "USE_LLVM", "USE_CUDA of the library", "LLVM version"),
        *("loaded library", "tvm version", "tvm_ffi version", "torch version"),
    }


@pytest.mark.parametrize(
    ("info", "name", "seen"),
    [
        ({"USE_LLVM": "OFF"}, "USE_LLVM", "code generator there, libinfo: OFF"),
        ({"USE_CUDA": "OFF"}, "USE_CUDA of the library", "libinfo: OFF"),
        ({"USE_CUDA": "NOT-FOUND"}, "USE_CUDA of the library", "libinfo: NOT-FOUND"),
        ({"LLVM_VERSION": "14.0.6"}, "LLVM version", "14.0.6"),
    ],
)
def test_a_library_that_was_built_otherwise(
    impostor: Impostor, info: dict[str, str], name: str, seen: str
) -> None:
    impostor.install(**info)
    wrong = failed(tuple(identity(impostor).values()))
    assert {one.name: one.seen for one in wrong.values()} == {name: seen}


def test_cuda_where_none_was_promised(impostor: Impostor) -> None:
    wrong = failed(tuple(identity(impostor, cuda=False, cuda_architectures=()).values()))
    assert set(wrong) == {"USE_CUDA of the library"}


def test_a_library_without_a_code_generator(impostor: Impostor) -> None:
    del impostor.registered["target.build.llvm"]
    impostor.install()
    wrong = failed(tuple(identity(impostor).values()))
    assert {one.name: one.seen for one in wrong.values()} == {
        "USE_LLVM": f"no code generator, libinfo: {INFO['USE_LLVM']}"
    }


def test_what_newer_tvm_makes_up_is_not_believed(impostor: Impostor) -> None:
    """From v0.25 on ``libinfo()`` says ON in Python, and the library is not asked."""
    impostor.registered = {}
    impostor.install(USE_LLVM="ON", USE_CUDA="ON")
    wrong = failed(tuple(identity(impostor, llvm_version="15").values()))
    assert {one.name: one.seen for one in wrong.values()} == {
        "USE_LLVM": "no code generator",
        "USE_CUDA of the library": "libtvm_runtime_cuda.so is not there",
        "LLVM version": "10 (major version only)",
    }
    elves.library(impostor.library.with_name("libtvm_runtime_cuda.so"))
    impostor.registered = {"target.build.llvm": 1}
    impostor.install()
    assert failed(tuple(identity(impostor).values())) == {}


@pytest.mark.parametrize("promise", ["tvm", "tvm_ffi", "torch"])
def test_another_version(impostor: Impostor, promise: str) -> None:
    wrong = failed(tuple(identity(impostor, **{promise: "9.9.9"}).values()))
    assert set(wrong) == {f"{promise} version"}


def test_another_library_is_loaded(impostor: Impostor) -> None:
    elves.library(impostor.library, 'extern "C" int answer() { return 41; }\n')
    check = identity(impostor)["loaded library"]
    assert not check.ok
    assert str(impostor.library) in check.seen


def test_a_library_of_another_name_is_loaded(impostor: Impostor) -> None:
    impostor.facts = {"libraries": {"libtvm_compiler.so": {"build_id": "aa"}}}
    impostor.install()
    assert not identity(impostor)["loaded library"].ok


def test_tvm_ffi_comes_from_its_wheel_and_not_from_the_build(impostor: Impostor) -> None:
    ffi = elves.library(impostor.root / "site" / "tvm_ffi" / "lib" / "libtvm_ffi.so")
    impostor.facts["libraries"]["libtvm_ffi.so"] = {"build_id": "aa"}
    impostor.install()
    text = f"import ctypes; ctypes.CDLL({str(ffi)!r}); __version__ = '0.1.8.post2'\n"
    (impostor.root / "site" / "tvm_ffi" / "__init__.py").write_text(text)
    assert identity(impostor)["loaded library"].ok
    # That alone is no proof that the build's library is loaded.
    impostor.facts = {"libraries": {"libtvm_ffi.so": {"build_id": "aa"}}}
    (impostor.built / "facts.json").write_text(json.dumps(impostor.facts))
    assert not identity(impostor)["loaded library"].ok


@pytest.mark.parametrize("build_id", ["", None])
def test_two_libraries_without_a_build_id_are_not_the_same(
    impostor: Impostor, build_id: str | None
) -> None:
    elves.library(impostor.library, elves.PLAIN, "-Wl,--build-id=none")
    impostor.facts = {"libraries": {"libtvm.so": {"build_id": build_id}}}
    impostor.install()
    assert not identity(impostor)["loaded library"].ok


def test_a_build_without_facts(impostor: Impostor) -> None:
    (impostor.built / "facts.json").unlink()
    wrong = failed(tuple(identity(impostor).values()))
    assert set(wrong) == {"loaded library"}


def test_a_crash_is_a_failed_check_and_hides_no_other(impostor: Impostor, tmp_path: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    (impostor.root / "site" / "tvm" / "__init__.py").write_text(crash)
    findings, _ = run(WHEEL.model_copy(update={"gcc": "4"}), tmp_path, PYTHONPATH=impostor.path)
    wrong = failed(findings.checks)
    assert {"tvm imports", "tvm then torch", "torch then tvm", "gcc version"} <= set(wrong)
    assert "killed by SIGSEGV" in wrong["tvm imports"].seen
    assert {one.name for one in findings.checks if one.ok} == {
        "python version",
        "shared libraries of libtvm.so",
    }
    assert all(one.hint for one in wrong.values())


def test_an_image_without_tvm(impostor: Impostor, tmp_path: Path) -> None:
    # Import it and there is nothing: what a wheel that was not installed looks like.
    for path in impostor.library.parent.rglob("*.so"):
        path.unlink()
    findings, said = run(SOURCE, tmp_path, PYTHONPATH=impostor.path)
    wrong = failed(findings.checks)
    assert "libtvm.so" in wrong["tvm imports"].seen
    assert wrong["TVM's library"].seen == "none found"
    assert {"build type", "commit", "GPT on the CPU", "GPT for sm_86"} <= set(wrong)
    assert "Traceback" in said  # of the children, for whoever reads the log


def test_an_architecture_that_is_none() -> None:
    with pytest.raises(NoAnswer, match="unknown GPU architecture 'sm_20'"):
        contract.ask("gpt-cuda", "20")


def test_a_child_that_takes_too_long(impostor: Impostor) -> None:
    slow = "import time; time.sleep(60)\n"
    (impostor.root / "site" / "tvm" / "__init__.py").write_text(slow)
    with pytest.raises(NoAnswer, match="no answer within"):
        contract.ask("identity", timeout_s=0.5)


@pytest.mark.parametrize("error", [0.5, None])
def test_a_gpt_that_answers_wrongly(monkeypatch: pytest.MonkeyPatch, error: float | None) -> None:
    told = {"compile_s": 1.0, "parity": {"passed": False, "max_rel_err": error}}
    monkeypatch.setattr(contract, "ask", lambda *_: told)
    (check,) = Examination(WHEEL, Path("/nonexistent")).gpt_cpu()
    assert not check.ok
    assert ("not finite" if error is None else "5.0e-01") in check.seen


def test_a_defect_of_one_check_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: str) -> dict[str, Any]:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(contract, "ask", broken)
    checks = list(Examination(WHEEL, Path("/nonexistent")).checks())
    assert {"TVM's identity", "tvm beside torch"} <= set(failed(tuple(checks)))
    assert any(one.ok for one in checks)


def test_a_promise_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "expected.json").write_text("{}")
    argv = ["--expected", str(tmp_path / "expected.json"), "--out", str(tmp_path / "out.json")]
    assert contract.main(argv) == 2
    assert not (tmp_path / "out.json").exists()
