"""The solver before the build: what cannot work is refused, with the nearest good combination.

What is known stands in tables.toml, each row with its source; ``docs/toolchain.md`` explains it.

    rules    a toolchain, and what it must meet
    repair   the nearest good one
    base     what a base image brings: its distribution, gcc, glibc, Python
    matrix   what fits, as tables and as data
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import UsageFault
from bench.host.toolchain import repair
from bench.host.toolchain.base import describe, of_profile
from bench.host.toolchain.matrix import as_data, matrix
from bench.host.toolchain.rules import Broken, Toolchain, broken, cxx_standard
from bench.host.toolchain.tables import Tables, load_tables, numbers, older, row_at
from bench.host.toolchain.wording import changes

__all__ = [
    "Problem",
    "Tables",
    "Toolchain",
    "as_data",
    "check",
    "cxx_standard",
    "describe",
    "load_tables",
    "matrix",
    "nearest",
    "notes",
    "of_profile",
    "problems",
]


@dataclass(frozen=True)
class Problem:
    """One reason why a toolchain cannot work.

    ``nearest`` says in words and options what to change; ``proposals`` are the toolchains that
    it names, each without any problem. Both are empty where the tables hold no good one near.
    """

    what: str
    reason: str
    nearest: str
    source: str
    proposals: tuple[Toolchain, ...]


def problems(toolchain: Toolchain, tables: Tables | None = None) -> list[Problem]:
    """What stands against a toolchain; [] where nothing does. No I/O, well under a second."""
    known = tables or load_tables()
    faults = broken(toolchain, known)
    alone = {fault.what: repair.alternatives(toolchain, fault, known) for fault in faults}
    # One search serves every problem that no single change mends.
    together = _ways(toolchain, known) if not all(alone.values()) else []
    return [_problem(toolchain, fault, alone[fault.what] or together) for fault in faults]


def nearest(toolchain: Toolchain, tables: Tables | None = None) -> str:
    """What to change so that everything fits, in words and options; "" where nothing is known.

    Where a newer driver is the shortest way, the way that keeps the driver is named as well.
    """
    known = tables or load_tables()
    return _words(toolchain, _ways(toolchain, known))


def check(toolchain: Toolchain, tables: Tables | None = None) -> None:
    """Let a good toolchain pass.

    Raises:
        UsageFault: something does not fit; every problem a line, the nearest good one the hint.
    """
    found = problems(toolchain, tables)
    if not found:
        return
    lines = [f"{one.what}: {one.reason}" for one in found]
    # Each problem names what would mend everything; several together need one search for all.
    whole = found[0].nearest if len(found) == 1 else nearest(toolchain, tables)
    hint = f"nearest good combination: {whole}" if whole else "invoke matrix shows what fits"
    raise UsageFault("\n".join(["this combination cannot work", *lines]), hint=hint)


def notes(toolchain: Toolchain, tables: Tables | None = None) -> list[str]:
    """What a user should know and nothing is refused for."""
    known = tables or load_tables()
    said = []
    cpu = next((row for row in known.cpu if row.name == toolchain.mcpu), None)
    if cpu and toolchain.llvm and older(toolchain.llvm, cpu.llvm_oldest):
        said.append(
            f"LLVM {toolchain.llvm} does not know the CPU {cpu.name} (LLVM {cpu.llvm_oldest} "
            "does): take a CPU that it knows, with the same vector features"
        )
    for name, version, last in (
        ("TVM", toolchain.tvm, known.tvm[-1].version),
        ("CUDA", toolchain.cuda, known.cuda[-1].version),
        ("torch", toolchain.torch, known.torch[-1].version),
    ):
        if version and older(last, version):
            said.append(f"{name} {version} is newer than the tables, which end at {last}")
    if toolchain.tvm and not numbers(toolchain.tvm):
        said.append(f"TVM {toolchain.tvm!r} is no release: nothing about it was checked")
    if toolchain.torch and row_at(known.torch, toolchain.torch) is None:
        said.append(f"torch {toolchain.torch} is older than the tables: it was not checked")
    return said


def _problem(toolchain: Toolchain, fault: Broken, ways: list[Toolchain]) -> Problem:
    words = _words(toolchain, ways)
    return Problem(fault.what, fault.reason, words, fault.source, tuple(ways))


def _ways(toolchain: Toolchain, tables: Tables) -> list[Toolchain]:
    best = repair.nearest(toolchain, tables)
    if best is None:
        return []
    if best.driver == toolchain.driver:
        return [best]
    kept = repair.nearest(toolchain, tables, keep=frozenset({"driver"}))
    return [best, kept] if kept else [best]


def _words(toolchain: Toolchain, ways: list[Toolchain]) -> str:
    return ", or ".join(changes(toolchain, way) for way in ways)
