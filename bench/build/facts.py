"""What is known of a build, beside its wheel: ``facts.py --source DIR --out DIR``.

Writes ``out/built/`` (config.cmake and facts.json, beside the CMakeCache.txt that compile.py kept:
the contract reads them in the image) and ``out/apt.txt`` (the packages of the shared libraries that
TVM was linked with, which the runtime stage installs, so that they are named nowhere by hand).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUILT = "built"
# What a build takes: the stage's own files, and LLVM, which is mounted into it.
PLACES = ("/", "/llvm")
MIB = 2**20


def output(*command: str) -> str:
    """What a command prints; empty where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def first_version(text: str) -> str | None:
    """The first thing in a text that looks like a version: ``3.31.10``."""
    found = re.search(r"\d+\.\d+(\.\d+)*", text)
    return found[0] if found else None


def taken(place: str) -> int:
    """Bytes of the files below a place, in whole MiB, those of other file systems left out.

    As much in every build of the same: so without what git has packed, and ninja's notes of times.
    """
    command = ["find", place, "-xdev", "-name", ".git", "-prune", "-o", "-type", "f"]
    command += ["!", "-name", ".ninja_*", "-printf", "%s\\n"]
    # It fails for one file that went away meanwhile, and tells of the others all the same.
    done = subprocess.run(command, capture_output=True, text=True)
    return round(sum(map(int, done.stdout.split())) / MIB) * MIB


def submodules(source: Path) -> dict[str, str]:
    """Path to commit, of every submodule, nested ones too."""
    lines = output("git", "-C", str(source), "submodule", "status", "--recursive").splitlines()
    found = {}
    for line in lines:
        commit, path = line.strip().lstrip("+-U").split()[:2]
        found[path] = commit
    return found


def libraries(folder: Path) -> dict[str, dict[str, Any]]:
    """Name to build id and size, of the shared libraries that CMake built for TVM."""
    found = {}
    for path in sorted({*folder.glob("libtvm*.so"), *folder.glob("lib/libtvm*.so")}):
        notes = output("readelf", "--notes", str(path))
        build_id = re.search(r"Build ID: ([0-9a-f]+)", notes)
        found[path.name] = {
            "path": str(path),
            "build_id": build_id[1] if build_id else None,
            "bytes": path.stat().st_size,
        }
    return found


def packages(paths: Sequence[str]) -> list[str]:
    """The Debian packages of the system's shared libraries that the given ones need, sorted."""
    needed = set()
    for path in paths:
        for line in output("ldd", path).splitlines():
            found = re.search(r"=> (/\S+)", line)
            if found:
                needed.add(found[1])
    names = set()
    for library in needed:
        # With /lib a link to /usr/lib, dpkg knows a file under the one name or the other.
        real = os.path.realpath(library)
        for spelling in (library, real, real.removeprefix("/usr"), f"/usr{library}"):
            owner = output("dpkg", "--search", spelling).partition(":")[0]
            if owner:
                names.add(owner)
                break
    return sorted(names)


def collect(source: Path) -> dict[str, Any]:
    """Everything, as facts.json holds it: nothing that another build of the same would not say."""
    folder = source / "build"
    llvm_config = os.environ.get("LLVM_CONFIG", "")
    nvcc = shutil.which("nvcc", path="/usr/local/cuda/bin")
    return {
        "tvm": {
            "commit": output("git", "-C", str(source), "rev-parse", "HEAD"),
            "url": os.environ.get("SOURCE_URL", ""),
            "submodules": submodules(source),
        },
        "versions": {
            "cmake": first_version(output("cmake", "--version")),
            "ninja": first_version(output("ninja", "--version")),
            "gcc": first_version(output("g++", "-dumpfullversion")),
            "python": first_version(output("python3", "--version")),
            "nvcc": first_version(output(nvcc, "--version").rpartition(", V")[2]) if nvcc else None,
            "llvm": first_version(output(llvm_config, "--version")) if llvm_config else None,
        },
        "llvm_config": llvm_config,
        "libraries": libraries(folder),
        "build_stage_bytes": sum(taken(place) for place in PLACES),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What is known of a build.")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    facts = collect(options.source)
    if not facts["libraries"]:
        print("error: no libtvm*.so in the build folder\nhint: the log above", file=sys.stderr)
        return 1
    built = options.out / BUILT
    built.mkdir(parents=True, exist_ok=True)
    (built / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    shutil.copyfile(options.source / "build" / "config.cmake", built / "config.cmake")
    needed = packages([entry["path"] for entry in facts["libraries"].values()])
    (options.out / "apt.txt").write_text("\n".join(needed) + "\n")
    print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
