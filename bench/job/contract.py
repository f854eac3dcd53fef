"""Whether this image keeps its promises: ``python -m bench.job.contract --expected F --out F``.

Run inside the finished image. Every question to TVM is put to a child process
(bench/job/probes.py), so that one that crashes is a failed check and hides no other; where TVM
was built from source, the checks of its build are made again on what the build left. The status
is 0 whenever the findings were written: whether they are good is for the reader.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.build import contract as build_contract
from bench.build.cmake_cache import is_on
from bench.build.versions import has_version
from bench.contract import BUILT_DIR, Check, Expected, Findings
from bench.job import death, driver, progress

CHILD_S = 900.0  # a Debug build of TVM compiles the small GPT in some 30 s on a busy machine
_MEMORY = (
    "give the engine's machine more: docs/contract.md#no-findings; `dmesg` says who was killed"
)
_SAID = 300  # so much of a failed child's last words is kept, in characters


class NoAnswer(Exception):
    """A child that died or failed: why, in one line, and what to do if that alone tells."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


def ask(question: str, *arguments: str, timeout_s: float = CHILD_S) -> dict[str, Any]:
    """What a child answers.

    Raises:
        NoAnswer: it crashed (with the signal's name), failed, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="contract-") as folder:
        out = Path(folder, "answer.json")
        command = [sys.executable, "-m", "bench.job.probes", question, str(out), *arguments]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"no answer within {timeout_s:g} s") from None
        said = done.stdout.decode("utf-8", "replace")
        if done.returncode == 0 and out.is_file():
            answer: dict[str, Any] = json.loads(out.read_text())
            return answer
    print(said, flush=True)  # the log has all of it
    code = done.returncode
    remedy = f"too little memory? {_MEMORY}" if code == -signal.SIGKILL else None
    raise NoAnswer(f"{death.of(code).message}: {_last_words(said)}", remedy)


def _last_words(said: str) -> str:
    lines = [text.strip() for text in said.splitlines() if text.strip()]
    return (lines or ["it said nothing"])[-1][-_SAID:]


class Examination:
    """One image asked everything. ``facts`` grows as it answers."""

    def __init__(self, expected: Expected, built: Path) -> None:
        self.expected = expected
        self.built = built
        self.facts: dict[str, Any] = {}

    def checks(self) -> Iterator[Check]:
        """Every check, in the order made; none keeps another from being made."""
        expected = self.expected
        steps: list[tuple[str, Callable[[], Iterator[Check]]]] = [
            ("the build", self.build),
            ("TVM's identity", self.identity),
            ("versions", self.versions),
            ("tvm beside torch", self.together),
            ("a small GPT on the CPU", self.gpt_cpu),
        ]
        archs = expected.cuda_architectures if expected.cuda else ()
        for arch in archs:
            steps.append((f"a small GPT for sm_{arch}", functools.partial(self.gpt_cuda, arch)))
        for done, (what, step) in enumerate(steps):
            progress.report(done, len(steps), what)
            try:
                yield from step()
            except Exception as error:  # a defect of one check must not cost the others
                said = f"{type(error).__name__}: {error}"
                yield Check(name=what, ok=False, wanted="an answer", seen=said, hint=_DEFECT)
        progress.report(len(steps), len(steps), "done")

    # --- the build's own checks, again, on the libraries as they were installed --------------

    def build(self) -> Iterator[Check]:
        libraries = driver.tvm_libraries()
        self.facts["installed"] = [str(path) for path in libraries]
        if not libraries:
            hint = "is TVM's Python package installed? python -m pip show apache-tvm tvm"
            yield _check("TVM's library", False, "installed", "none found", hint)
        search = _loaded_before()
        if self.expected.tvm_from == "wheel":
            for path in libraries:
                title = f"shared libraries of {path.name}"
                ask_ldd = functools.partial(
                    build_contract.unresolved, title, path, cuda=self.expected.cuda, search=search
                )
                yield _of(build_contract.attempt(title, "all found", ask_ldd, _LDD))
            return
        yield from map(
            _of,
            build_contract.examine(
                self.built, libraries, self.expected.model_dump(mode="json"), search
            ),
        )
        self.facts["build"] = build_contract.read_facts(self.built)

    # --- what TVM says of itself -------------------------------------------------------------

    def identity(self) -> Iterator[Check]:
        try:
            told = ask("identity")
        except NoAnswer as error:
            hint = "see the log: does `python -c 'import tvm'` work in the image?"
            yield _check("tvm imports", False, "imports", error, error.remedy or hint)
            return
        self.facts["tvm"] = told
        yield _check("tvm imports", True, "imports", f"TVM {told['tvm']}", "")
        expected = self.expected
        yield _use_llvm(told)
        # The wheels have CUDA built in, whatever the profile; only a promise is checked.
        if expected.cuda or expected.tvm_from == "source":
            yield _use_cuda(told, expected.cuda)
        if expected.llvm_version is not None:
            yield _llvm_version(told, expected.llvm_version)
        if expected.tvm_from == "source":
            yield self._loaded(told["libraries"])
        for name, want in (("tvm", expected.tvm), ("tvm_ffi", expected.tvm_ffi)):
            if want is not None:  # a commit of the user's own has whatever version it has
                yield _version(name, told[name], want)
        yield _version("torch", told["torch"], expected.torch)

    def _loaded(self, libraries: dict[str, dict[str, str]]) -> Check:
        """The library that Python maps is the one that CMake linked."""
        name, wanted = "loaded library", "the build id of the CMake build"
        try:
            made = build_contract.read_facts(self.built)["libraries"]
        except (OSError, ValueError, KeyError) as error:
            hint = f"is {self.built}/facts.json there?"
            return _check(name, False, wanted, f"cannot tell: {error}", hint)
        # tvm_ffi is a package of its own, from its wheel; the build makes another in passing.
        both = sorted(n for n in set(made) & set(libraries) if not n.startswith("libtvm_ffi"))
        wrong = [
            f"{libraries[one]['path']} is {libraries[one]['build_id'] or 'without a build id'}, "
            f"not {made[one]['build_id']}"
            for one in both
            if not made[one]["build_id"] or libraries[one]["build_id"] != made[one]["build_id"]
        ]
        if not both:
            wrong = [f"loaded {sorted(libraries)}, built {sorted(made)}"]
        seen = "; ".join(wrong) or ", ".join(f"{o} {made[o]['build_id'][:12]}" for o in both)
        hint = (
            "Python loads another libtvm: TVM_LIBRARY_PATH, LD_LIBRARY_PATH, PATH, or a wheel of "
            "apache-tvm installed over the build"
        )
        return _check(name, not wrong, wanted, seen, hint)

    # --- the tools in the finished image -----------------------------------------------------

    def versions(self) -> Iterator[Check]:
        expected = self.expected
        seen = {
            "python": platform.python_version(),
            "gcc": _said(["gcc", "-dumpfullversion"], r"[\d.]+"),
            "nvcc": _said(["nvcc", "--version"], r"(?<=, V)[\d.]+"),
        }
        self.facts["versions"] = seen
        for name in ("python", "gcc"):
            want = getattr(expected, name)
            if want is not None:
                yield _version(name, seen[name], want)
        # A build from source has its nvcc checked with the build; here TVM compiles kernels with
        # what it finds, which may be NVRTC from the wheels.
        if expected.nvcc is not None and seen["nvcc"] is not None:
            yield _version("nvcc", seen["nvcc"], expected.nvcc)

    # --- at work -----------------------------------------------------------------------------

    def together(self) -> Iterator[Check]:
        for question in ("tvm-then-torch", "torch-then-tvm"):
            name = question.replace("-", " ")
            try:
                told = ask(question)
            except NoAnswer as error:
                hint = (
                    "two LLVMs in one process? link TVM's statically with symbols hidden: "
                    "--link-static and HIDE_PRIVATE_SYMBOLS"
                )
                yield _check(name, False, "one process", error, error.remedy or hint)
            else:
                yield _check(name, True, "one process", f"CPU {told['mcpu']}", "")

    def gpt_cpu(self) -> Iterator[Check]:
        name, wanted = "GPT on the CPU", "compiles, runs, agrees with float64"
        try:
            told = ask("gpt-cpu")
        except NoAnswer as error:
            hint = error.remedy or "the log has the traceback"
            yield _check(name, False, wanted, error, hint)
            return
        self.facts["gpt_cpu"] = told
        parity = told["parity"]
        largest = parity["max_rel_err"]
        seen = f"compiled in {told['compile_s']:.1f} s, largest error " + (
            "not finite" if largest is None else f"{largest:.1e} of the largest logit"
        )
        hint = "wrong code or a wrong import: compare with --backends tvm-none; docs/adr/0004"
        yield _check(name, bool(parity["passed"]), wanted, seen, hint)

    def gpt_cuda(self, arch: str) -> Iterator[Check]:
        name = f"GPT for sm_{arch}"
        try:
            told = ask("gpt-cuda", arch)
        except NoAnswer as error:
            hint = f"does this CUDA toolkit know sm_{arch}? nvcc --list-gpu-arch; invoke matrix"
            yield _check(name, False, "compiles", error, error.remedy or hint)
            return
        self.facts.setdefault("gpt_cuda", {})[f"sm_{arch}"] = told
        yield _check(name, True, "compiles", f"compiled in {told['compile_s']:.1f} s", "")


_REBUILD = "{} in config.cmake; then build anew: invoke build-image"
_LDD = "ldd is in Debian's libc-bin"
_DEFECT = "a defect of the check itself: please report it with the log"


def _native(told: dict[str, Any], name: str) -> str | None:
    """What the library itself says of an option; None where ``libinfo()`` is made up in Python."""
    return str(told["libinfo"].get(name, "NOT-FOUND")) if told["libinfo_is_native"] else None


def _use_llvm(told: dict[str, Any]) -> Check:
    said = _native(told, "USE_LLVM")
    seen = "code generator there" if told["llvm_generator"] else "no code generator"
    seen += f", libinfo: {said}" if said is not None else ""
    ok = bool(told["llvm_generator"]) and (said is None or is_on(said))
    # v0.26 and later pass over a compiler library that does not load, in silence.
    hint = _REBUILD.format("USE_LLVM") + "; or libtvm_compiler.so does not load: ldd"
    return _check("USE_LLVM", ok, "on", seen, hint)


def _use_cuda(told: dict[str, Any], wanted: bool) -> Check:
    said = _native(told, "USE_CUDA")
    on = bool(told["cuda_runtime"]) if said is None else is_on(said)
    lib = "libtvm_runtime_cuda.so is " + ("there" if told["cuda_runtime"] else "not there")
    seen = lib if said is None else f"libinfo: {said}"
    hint = _REBUILD.format("USE_CUDA") + "; TVM_PACKAGE_EXTRA_LIBS puts that library into a wheel"
    return _check("USE_CUDA of the library", on == wanted, "on" if wanted else "off", seen, hint)


def _llvm_version(told: dict[str, Any], wanted: str) -> Check:
    seen = _native(told, "LLVM_VERSION")
    if seen is not None:
        ok = has_version(seen, wanted)
    else:  # the code generator knows the major version alone
        ok = str(told["llvm_major"]) == wanted.split(".")[0]
        seen = f"{told['llvm_major']} (major version only)"
    hint = "TVM was linked with another LLVM: see USE_LLVM in CMakeCache.txt"
    return _check("LLVM version", ok, wanted, seen, hint)


def _version(name: str, seen: str | None, wanted: str) -> Check:
    hint = f"the pins promise {name} {wanted}: docker/pins.toml and docker/locks; build anew"
    ok = seen is not None and has_version(seen, wanted)
    return _check(f"{name} version", ok, wanted, seen or "not installed", hint)


def _loaded_before() -> list[Path]:
    """Folders of libraries that Python loads ahead of TVM's: those need no path to be found."""
    spec = importlib.util.find_spec("tvm_ffi")
    places = (spec.submodule_search_locations or ()) if spec else ()
    return [Path(place, "lib") for place in places]


def _said(command: list[str], pattern: str) -> str | None:
    """The first match in what a program prints; None where there is no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(pattern, done.stdout)
    return match[0] if match else None


def _check(name: str, ok: bool, wanted: object, seen: object, hint: str) -> Check:
    return _of(build_contract.check(name, ok, wanted, seen, hint))


def _of(one: build_contract.Check) -> Check:
    return Check(name=one.name, ok=one.ok, wanted=one.wanted, seen=one.seen, hint=one.hint)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.job.contract")
    parser.add_argument("--expected", type=Path, required=True, help="an Expected as JSON")
    parser.add_argument("--out", type=Path, required=True, help="becomes Findings as JSON")
    parser.add_argument("--built", type=Path, default=Path(BUILT_DIR), help="what the build left")
    arguments = parser.parse_args(argv)
    try:
        expected = Expected.model_validate_json(arguments.expected.read_bytes())
    except (OSError, ValidationError) as error:
        print(f"error: cannot read {arguments.expected}: {error}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    examination = Examination(expected, arguments.built)
    checks = []
    for one in examination.checks():
        print(build_contract.line(one), flush=True)
        checks.append(one)
    findings = Findings(
        checks=tuple(checks), facts=examination.facts, seconds=time.monotonic() - begin
    )
    partial = arguments.out.with_name(f"{arguments.out.name}.partial")
    partial.write_text(findings.model_dump_json(indent=2))
    os.replace(partial, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
