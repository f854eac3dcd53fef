"""The nearest good toolchain: a search over the tables' rows, cheapest change first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bench.host.toolchain.rules import Broken, Toolchain, broken
from bench.host.toolchain.tables import DistributionRow, Tables, Versioned, numbers, older, row_at

# What a user changes most easily comes first; it settles ties, and what is not a version step.
PARTS = (
    "cuda",
    "cmake",
    "tvm",
    "llvm",
    "gcc",
    "distribution",
    "python",
    "torch",
    "cuda_arch",
    "driver",
)
# Far more than any case of the tests needs; it bounds the time of a hopeless one.
_MOST_STATES = 4000
# The host's driver is its administrator's, and torch's CPU build is no reference on a GPU: both
# are offered, after every step between versions.
_DRIVER_STEP = 40
_CPU_TORCH_STEP = 50
_OTHER_FAMILY_STEP = 10

_HOPELESS = 1000

Step = tuple[int, Toolchain]
# At least so many changes, steps so far, order of arrival; changes so far, state, fixed, faults.
_Entry = tuple[int, int, int, int, Toolchain, frozenset[str], list[Broken]]


def alternatives(toolchain: Toolchain, fault: Broken, tables: Tables) -> list[Toolchain]:
    """The good toolchains that differ in one part, of those that the fault is about: of each part
    its nearest value, the shortest step first. Empty where no single change is enough."""
    found: list[tuple[int, int, Toolchain]] = []
    for part in fault.parts:
        for step, other in moves(toolchain, part, tables):
            if not broken(other, tables):
                found.append((step, PARTS.index(part), other))
                break
    return [other for _, _, other in sorted(found, key=lambda one: one[:2])]


def nearest(
    toolchain: Toolchain, tables: Tables, *, keep: frozenset[str] = frozenset()
) -> Toolchain | None:
    """The good toolchain with the fewest parts changed, then the smallest steps; the same for the
    same input. None where the tables hold none with the parts in ``keep`` as they are.

    Whatever mends a fault changes one of its parts, so only those are tried: each state's first
    fault is mended in every way, the cheapest state first.
    """
    ticket = itertools.count()
    heap: list[_Entry] = []
    seen = set()

    def push(changed: int, steps: int, state: Toolchain, fixed: frozenset[str]) -> None:
        if (state, fixed) not in seen:
            seen.add((state, fixed))
            faults = broken(state, tables)
            least = changed + _least_changes(faults, fixed)
            if least >= _HOPELESS:
                return
            heapq.heappush(heap, (least, steps, next(ticket), changed, state, fixed, faults))

    push(0, 0, toolchain, keep)
    while heap and len(seen) < _MOST_STATES:
        _, steps, _, changed, state, fixed, faults = heapq.heappop(heap)
        if not faults:
            return state
        # The fault with the fewest ways out: what is impossible shows at once.
        fault = min(faults, key=lambda one: len(set(one.parts) - fixed))
        for part in sorted(set(fault.parts) - fixed, key=PARTS.index):
            for step, other in moves(state, part, tables):
                push(changed + 1, steps + step, other, fixed | {part})
    return None


def _least_changes(faults: Sequence[Broken], fixed: frozenset[str]) -> int:
    """So many parts must change at least: faults that share none need one each."""
    taken: set[str] = set()
    count = 0
    for fault in sorted(faults, key=lambda one: len(one.parts)):
        parts = set(fault.parts) - fixed
        if not parts:
            return _HOPELESS
        if not parts & taken:
            taken |= parts
            count += 1
    return count


def moves(toolchain: Toolchain, part: str, tables: Tables) -> list[Step]:
    """Every other value of one part, with how far it is, nearest first."""
    return sorted(_MOVES[part](toolchain, tables), key=lambda one: one[0])


def _versions(
    part: str, rows: Callable[[Tables], Sequence[Versioned]]
) -> Callable[..., list[Step]]:
    """Moves along a table of versions. Of two that are as far, the newer comes first."""

    def move(toolchain: Toolchain, tables: Tables) -> list[Step]:
        table = rows(tables)
        here = _place([row.version for row in table], getattr(toolchain, part))
        return [
            (_steps(index, here), _with(toolchain, part, row.version))
            for index, row in reversed(list(enumerate(table)))
            if index != here
        ]

    return move


def _with(toolchain: Toolchain, part: str, version: str) -> Toolchain:
    changed: dict[str, Any] = {part: version}
    return replace(toolchain, **changed)


def _place(versions: Sequence[str], version: str | None) -> float:
    """Where a version stands in a table; between two rows where it has none of its own."""
    if version is None or not numbers(version):
        return len(versions) - 1
    for index, known in enumerate(versions):
        if older(version, known):
            return index - 0.5
        if not older(known, version):
            return index
    return len(versions) - 0.5


def _steps(index: int, here: float) -> int:
    return max(1, int(abs(index - here) + 0.5))


def _tvms(toolchain: Toolchain, tables: Tables) -> list[Step]:
    """Of wheels only those of which everything is known that counts for this host."""

    def known(version: str | None) -> bool:
        row = row_at(tables.tvm, version)
        return bool(row and row.wheel_glibc and (row.wheel_cuda or not toolchain.driver))

    steps = _versions("tvm", lambda tables: tables.tvm)(toolchain, tables)
    return [one for one in steps if not toolchain.tvm_wheel or known(one[1].tvm)]


def _llvms(toolchain: Toolchain, tables: Tables) -> list[Step]:
    """What the base is known to package; LLVM 10, which none does, as its release's tarball."""
    base = tables.distribution_of(toolchain.distribution)
    here = _place([row.version for row in tables.llvm], toolchain.llvm)
    steps = []
    for index, row in reversed(list(enumerate(tables.llvm))):
        packaged = not row.needs_tinfo5
        if index != here and not (packaged and base and row.version not in base.llvm):
            other = replace(toolchain, llvm=row.version, llvm_packaged=packaged)
            steps.append((_steps(index, here), other))
    return steps


def _distributions(toolchain: Toolchain, tables: Tables) -> list[Step]:
    """Another base brings its gcc, glibc and Python along. Where the base is not known, nothing is
    known that another would mend but glibc."""
    if toolchain.distribution is None and toolchain.glibc is None:
        return []
    names = [row.name for row in tables.distribution]
    here = names.index(toolchain.distribution) if toolchain.distribution in names else None
    return [
        (_base_step(index, here, names), _on(row, toolchain))
        for index, row in enumerate(tables.distribution)
        if index != here and row.python and _packages(row, toolchain)
    ]


def _packages(row: DistributionRow, toolchain: Toolchain) -> bool:
    if not toolchain.llvm_packaged or toolchain.llvm is None:
        return True
    return toolchain.llvm.split(".")[0] in row.llvm


def _base_step(index: int, here: int | None, names: Sequence[str]) -> int:
    if here is None:
        return _OTHER_FAMILY_STEP + index
    same = names[index].split()[0] == names[here].split()[0]
    # One base replaces three parts: it is further than the next version of one of them.
    return 1 + abs(index - here) + (0 if same else _OTHER_FAMILY_STEP)


def _on(row: DistributionRow, toolchain: Toolchain) -> Toolchain:
    return replace(
        toolchain, distribution=row.name, gcc=row.gcc, glibc=row.glibc, python=row.python
    )


def _pythons(toolchain: Toolchain, tables: Tables) -> list[Step]:
    known = {row.python_oldest for row in tables.torch} | {r.python_newest for r in tables.torch}
    ordered = sorted(known, key=numbers)
    here = _place(ordered, toolchain.python)
    return [
        (_steps(index, here), replace(toolchain, python=version))
        for index, version in reversed(list(enumerate(ordered)))
        if index != here
    ]


def _torches(toolchain: Toolchain, tables: Tables) -> list[Step]:
    """Another release of the same build, with the CUDA that it brings; or this one's CPU build."""
    table = tables.torch
    here = _place([row.version for row in table], toolchain.torch)
    steps = [
        (
            _steps(index, here),
            replace(
                toolchain,
                torch=row.version,
                torch_cuda=row.cuda if toolchain.torch_cuda else None,
            ),
        )
        for index, row in reversed(list(enumerate(table)))
        if index != here
    ]
    if toolchain.torch_cuda:
        steps.append((_CPU_TORCH_STEP, replace(toolchain, torch_cuda=None)))
    return steps


def _archs(toolchain: Toolchain, tables: Tables) -> list[Step]:
    """The first architecture that is unknown or renamed, replaced; the rest stays."""
    return list(_replaced(toolchain, tables))


def _replaced(toolchain: Toolchain, tables: Tables) -> Iterator[Step]:
    known = [row.arch for row in tables.gpu]
    for arch in toolchain.cuda_arch:
        row = tables.gpu_of(arch)
        if row and not row.renamed:
            continue
        wanted = [row.renamed] if row and row.renamed else known
        for other in wanted:
            archs = tuple(
                dict.fromkeys(other if one == arch else one for one in toolchain.cuda_arch)
            )
            near = abs(int(other) - int(arch)) if arch.isdigit() else known.index(other)
            yield 1 + near, replace(toolchain, cuda_arch=archs)
        return


def _drivers(toolchain: Toolchain, tables: Tables) -> list[Step]:
    """Only newer ones: an older driver mends nothing."""
    least = sorted({row.driver_oldest for row in tables.cuda}, key=numbers)
    newer = [one for one in least if toolchain.driver and older(toolchain.driver, one)]
    return [
        (_DRIVER_STEP + index, replace(toolchain, driver=one)) for index, one in enumerate(newer)
    ]


_MOVES: dict[str, Callable[[Toolchain, Tables], list[Step]]] = {
    "tvm": _tvms,
    "llvm": _llvms,
    "cmake": _versions("cmake", lambda tables: tables.cmake),
    "gcc": _versions("gcc", lambda tables: tables.gcc),
    "cuda": _versions("cuda", lambda tables: tables.cuda),
    "distribution": _distributions,
    "python": _pythons,
    "torch": _torches,
    "cuda_arch": _archs,
    "driver": _drivers,
}
