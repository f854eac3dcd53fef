"""Whether a build is what it was meant to be: CMake's cache, the libraries, the versions.

bench/job/contract.py makes these checks in the finished image, on what the build left in
/opt/gpt-frontend/built. By hand they run in the stage that compiles too, or on any build folder:

    python3 -m bench.build.contract --built DIR --library PATH… --expected FILE --record OUT

DIR holds CMakeCache.txt and facts.json (bench/build/facts.py). FILE is an ``Expected`` of
bench/contract.py as JSON, OUT becomes ``Findings``. One line a check is printed; the status is 1
if any fails. Any CMake project laid out like TVM can be checked: nothing here names its libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.build import elf
from bench.build.cmake_cache import architectures, is_on, read_cache
from bench.build.versions import has_version, in_range

CACHE_FILE = "CMakeCache.txt"
FACTS_FILE = "facts.json"
# The driver's own library: the host's, put into a container by the NVIDIA container toolkit.
DRIVER = "libcuda.so.1"
_WITH_SYMBOLS = ("Debug", "RelWithDebInfo")


@dataclass(frozen=True)
class Check:
    """One promise, in the shape of ``bench.contract.Check``."""

    name: str
    ok: bool
    wanted: str
    seen: str
    hint: str | None = None


def check(name: str, ok: bool, wanted: object, seen: object, hint: str) -> Check:
    """A check; the hint is kept only where it is needed."""
    return Check(name, ok, str(wanted), str(seen), None if ok else hint)


def attempt(name: str, wanted: object, what: Callable[[], Check], hint: str) -> Check:
    """``what()``, or a failed check where it cannot be told: one never hides the others."""
    try:
        return what()
    except Exception as error:  # whatever it is, it is this check that has no answer
        return Check(
            name, False, str(wanted), f"cannot tell: {type(error).__name__}: {error}", hint
        )


def examine(
    built: Path, libraries: Sequence[Path], expected: Mapping[str, Any], search: Sequence[Path] = ()
) -> list[Check]:
    """Every check of the build in ``built``.

    Args:
        built: the folder with CMakeCache.txt and facts.json.
        libraries: the shared libraries that the build is for.
        expected: what was promised; a key that is missing or None promises nothing.
        search: folders of libraries that are loaded before those, as Python loads tvm_ffi's.
    """
    checks = list(_configuration(built, expected))
    for library in libraries:
        checks += _library(built, library, expected, search)
    checks += _origin(built, expected)
    return checks


# --- CMake's cache ---------------------------------------------------------------------------


def _configuration(built: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    cache: dict[str, str] | None = None

    def entry(name: str) -> str | None:
        nonlocal cache
        cache = read_cache(built / CACHE_FILE) if cache is None else cache
        return cache.get(name)

    set_it = "config.cmake sets it with CACHE … FORCE, so that the cache tells what was used"
    if expected.get("build_type"):
        name, want = "build type", expected["build_type"]

        def build_type() -> Check:
            seen = entry("CMAKE_BUILD_TYPE")
            hint = f"CMAKE_BUILD_TYPE is not {want} in {CACHE_FILE}: {set_it}; then build anew"
            return check(name, seen == want, want, seen or "not set", hint)

        yield attempt(name, want, build_type, _no_cache(built))
    if expected.get("llvm_config"):
        name_llvm, path = "llvm-config", str(expected["llvm_config"])

        def llvm() -> Check:
            used = (entry("USE_LLVM") or "").split()
            given = entry("GPT_FRONTEND_LLVM_CONFIG") or path
            ok = used[:1] == [path] and given == path
            seen = " ".join(used) or "USE_LLVM is not in the cache"
            seen += "" if given == path else f" (GPT_FRONTEND_LLVM_CONFIG is {given})"
            hint = f"USE_LLVM must begin with {path}: {set_it}; LLVM_CONFIG or PATH may mislead it"
            return check(name_llvm, ok, path, seen, hint)

        yield attempt(name_llvm, path, llvm, _no_cache(built))
    if expected.get("cuda") is not None:
        want_cuda = "on" if expected["cuda"] else "off"

        def cuda() -> Check:
            value = entry("USE_CUDA")
            # An option that was never set is in the cache as OFF, or the project has none.
            seen = "on" if is_on(value or "OFF") else "off"
            hint = f"USE_CUDA is {value}: {set_it}"
            return check("USE_CUDA", seen == want_cuda, want_cuda, seen, hint)

        yield attempt("USE_CUDA", want_cuda, cuda, _no_cache(built))
    if expected.get("cuda"):
        archs = architectures(expected["cuda_architectures"])

        def cuda_archs() -> Check:
            value = entry("CMAKE_CUDA_ARCHITECTURES")
            seen = architectures(value or "")
            hint = "CMAKE_CUDA_ARCHITECTURES: name them with --cuda-arch; 'native' asks a GPU"
            want = ", ".join(archs)
            return check("CUDA architectures", seen == archs, want, value or "not set", hint)

        yield attempt("CUDA architectures", ", ".join(archs), cuda_archs, _no_cache(built))


def _no_cache(built: Path) -> str:
    return f"is {built / CACHE_FILE} there? the build copies it when it has compiled"


# --- the libraries ---------------------------------------------------------------------------


def build_id(path: Path) -> str:
    """The GNU build id of a library in hex, "" where the linker wrote none.

    Raises:
        elf.NotElf: it is no 64-bit ELF file.
        OSError: it cannot be read.
    """
    return elf.build_id(path)


def _library(
    built: Path, path: Path, expected: Mapping[str, Any], search: Sequence[Path]
) -> Iterator[Check]:
    name = path.name
    build_type = expected.get("build_type")
    missing_hint = f"is {path} there, and a shared library?"
    if build_type in _WITH_SYMBOLS:
        title = f"debug symbols of {name}"
        yield attempt(title, "in .debug_info", lambda: _symbols(title, path), missing_hint)
        title_opt = f"optimisation of {name}"
        yield attempt(
            title_opt, build_type, lambda: _optimisation(title_opt, path, build_type), missing_hint
        )
    title_ldd = f"shared libraries of {name}"
    yield attempt(
        title_ldd,
        "all found",
        lambda: unresolved(title_ldd, path, cuda=bool(expected.get("cuda")), search=search),
        f"{missing_hint} ldd is in Debian's libc-bin",
    )
    if "--link-static" in _quiet_use_llvm(built):
        title_llvm = f"LLVM inside {name}"
        yield attempt(title_llvm, "static", lambda: _static_llvm(title_llvm, path), missing_hint)
    title_id = f"build id of {name}"
    yield attempt(
        title_id,
        "as the build wrote it",
        lambda: _same_build(title_id, built, path),
        f"is {built / FACTS_FILE} there, with this library in it?",
    )


def _symbols(title: str, path: Path) -> Check:
    has = elf.read(path).has_debug_info
    hint = (
        "it was built without -g, or stripped when it was installed (scikit-build: install.strip)"
    )
    return check(title, has, "in .debug_info", "there" if has else "none", hint)


def _optimisation(title: str, path: Path, build_type: str) -> Check:
    """GCC writes its options into the symbols: what the cache says can be held against it."""
    told = elf.producers(path)
    levels = sorted({(re.findall(r"\s-O(\S*)", text) or ["0"])[-1] or "1" for text in told})
    want = "some of -O0" if build_type == "Debug" else "some above -O0"
    seen = ", ".join(f"-O{level}" for level in levels) or "not told by this compiler"
    # A static library that is linked in may have been compiled otherwise, hence "some".
    plain = "0" in levels or "g" in levels
    ok = not levels or (plain if build_type == "Debug" else any(le not in "0g" for le in levels))
    hint = f"the build type is {build_type} and the compiler's options are not: see CMAKE_CXX_FLAGS"
    return check(title, ok, want, seen, hint)


def unresolved(title: str, path: Path, *, cuda: bool, search: Sequence[Path]) -> Check:
    """Ask the dynamic loader what it does not find. Of a CUDA build the driver may be missing."""
    inherited = os.environ.get("LD_LIBRARY_PATH")
    folders = [*map(str, search), *([inherited] if inherited else [])]
    done = subprocess.run(
        ["ldd", str(path)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LC_ALL": "C",
            **({"LD_LIBRARY_PATH": ":".join(folders)} if folders else {}),
        },
    )
    if done.returncode != 0:
        raise OSError((done.stderr or done.stdout).strip())
    said = f"{done.stdout}\n{done.stderr}"
    absent = sorted(set(re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE)))
    # A symbol version that the library found does not have: as fatal as no library.
    absent += sorted(set(re.findall(r"version `\S+' not found \(required by \S+\)", said)))
    allowed = [DRIVER] if cuda else []
    wrong = [name for name in absent if name not in allowed]
    want = f"all found, but perhaps {DRIVER}" if cuda else "all found"
    seen = "not found: " + ", ".join(absent) if absent else "all found"
    hint = f"ldd {path}: install what is missing in the runtime stage, or link it statically"
    return check(title, not wrong, want, seen, hint)


def _quiet_use_llvm(built: Path) -> str:
    try:
        return read_cache(built / CACHE_FILE).get("USE_LLVM", "")
    except OSError:
        return ""  # the check of the cache says so


def _static_llvm(title: str, path: Path) -> Check:
    shared = [name for name in elf.read(path).needed if name.startswith("libLLVM")]
    hint = "llvm-config preferred libLLVM.so: give it --ignore-libllvm before --link-static"
    return check(
        title, not shared, "linked statically", ", ".join(shared) or "linked statically", hint
    )


def _same_build(title: str, built: Path, path: Path) -> Check:
    wanted = read_facts(built)["libraries"][path.name]["build_id"]
    seen = build_id(path)
    hint = f"{path} is not the library that this build linked: another copy is in its place"
    return check(title, bool(seen) and seen == wanted, wanted or "a build id", seen or "none", hint)


# --- where it came from, and with what --------------------------------------------------------


def read_facts(built: Path) -> dict[str, Any]:
    """facts.json: what the build wrote down of itself."""
    facts = json.loads((built / FACTS_FILE).read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError(f"{FACTS_FILE} holds no object")
    return facts


_TOOLS = {
    "cmake": "cmake",
    "gcc": "gcc",
    "python": "python",
    "nvcc": "nvcc",
    "llvm_version": "llvm",
}


def _origin(built: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    where = f"is {built / FACTS_FILE} there and whole? bench/build/facts.py writes it"
    for key, tool in _TOOLS.items():
        wanted = expected.get(key)
        if wanted:
            title = f"{tool} of the build"
            yield attempt(title, wanted, _tool(title, built, key, tool, str(wanted)), where)
    if expected.get("commit"):
        yield attempt("commit", expected["commit"], lambda: _commit(built, expected), where)
    if expected.get("submodules"):
        count = f"{len(expected['submodules'])} as locked"
        yield attempt("submodules", count, lambda: _submodules(built, expected), where)


def _tool(title: str, built: Path, key: str, tool: str, wanted: str) -> Callable[[], Check]:
    def judge() -> Check:
        seen = str(read_facts(built)["versions"][tool])
        ok = in_range(seen, wanted) if key == "cmake" else has_version(seen, wanted)
        hint = f"the pins promise {tool} {wanted}: change docker/pins.toml or the base image"
        return check(title, ok, wanted, seen, hint)

    return judge


def _commit(built: Path, expected: Mapping[str, Any]) -> Check:
    seen, wanted = read_facts(built)["tvm"]["commit"], expected["commit"]
    hint = "another commit was checked out: docker/pins.toml, [sources]; then build anew"
    return check("commit", seen == wanted, wanted, seen, hint)


def _submodules(built: Path, expected: Mapping[str, Any]) -> Check:
    seen: dict[str, str] = read_facts(built)["tvm"]["submodules"]
    wanted: Mapping[str, str] = expected["submodules"]
    wrong = [
        f"{path} is {'missing' if path not in seen else 'at ' + seen[path][:12]}"
        for path in sorted(wanted)
        if seen.get(path) != wanted[path]
    ]
    # What is nested in a listed one is fixed by that one's commit.
    wrong += [
        f"{path} is not locked"
        for path in sorted(seen)
        if path not in wanted and not any(path.startswith(f"{known}/") for known in wanted)
    ]
    hint = "git submodule sync --recursive && git submodule update --init --recursive --force"
    count = f"{len(wanted)} as locked"
    return check("submodules", not wrong, count, "; ".join(wrong) or count, hint)


# --- the command -----------------------------------------------------------------------------


def line(one: Check | Any) -> str:
    """A check as one line; ``one`` may be a bench.contract.Check too."""
    said = f"{'ok' if one.ok else 'FAILED':6}  {one.name}: {one.seen}"
    return said if one.ok else f"{said} (wanted: {one.wanted})\nhint:   {one.hint}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.build.contract")
    parser.add_argument("--built", type=Path, required=True, help="CMakeCache.txt and facts.json")
    parser.add_argument("--library", type=Path, nargs="+", required=True, action="extend")
    parser.add_argument("--expected", type=Path, required=True, help="what was promised, as JSON")
    parser.add_argument("--record", type=Path, required=True, help="what was found, as JSON")
    parser.add_argument(
        "--search",
        type=Path,
        nargs="+",
        default=[],
        action="extend",
        help="folders of libraries that are loaded before",
    )
    arguments = parser.parse_args(argv)
    begin = time.monotonic()
    try:
        expected = json.loads(arguments.expected.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"error: cannot read {arguments.expected}: {error}", file=sys.stderr)
        print("hint: it is an Expected of bench/contract.py as JSON", file=sys.stderr)
        return 1
    checks = examine(arguments.built, arguments.library, expected, arguments.search)
    for one in checks:
        print(line(one), flush=True)
    try:
        facts = read_facts(arguments.built)
    except (OSError, ValueError):
        facts = {}  # the checks that need it have failed
    record = {
        "schema_version": 1,
        "checks": [asdict(one) for one in checks],
        "facts": {"build": facts},
        "seconds": time.monotonic() - begin,
    }
    arguments.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    failed = [one.name for one in checks if not one.ok]
    if failed:
        print(f"error: the build breaks its contract: {', '.join(failed)}", file=sys.stderr)
        print("hint: each failed check above says what mends it; docs/contract.md", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
