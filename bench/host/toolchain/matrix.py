"""What fits, to be read at once: as data for --json, as tables for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bench.host.toolchain import repair
from bench.host.toolchain.rules import Toolchain, broken
from bench.host.toolchain.tables import (
    CudaRow,
    GpuRow,
    Tables,
    TorchRow,
    TvmRow,
    arch_number,
    older,
    row_at,
)
from bench.host.toolchain.wording import changes

Profiles = Mapping[str, Toolchain]


def as_data(
    tables: Tables,
    profiles: Profiles,
    *,
    tvm: str | None = None,
    gpu: str | None = None,
    cuda: str | None = None,
    driver: str | None = None,
) -> dict[str, Any]:
    """What fits with the TVM, GPU architecture, toolkit and driver asked for; None: any.

    ``cuda``, ``torch`` and ``tvm`` are lists of rows, ``profiles`` maps names: each with ``fits``
    and ``why`` (a list of reasons, empty where it fits). Rows carry their ``source``.
    """
    arch = (arch_number(gpu),) if gpu else ()
    asked = Toolchain(tvm=tvm, cuda_arch=arch, driver=driver)
    return {
        "asked": {
            "tvm": tvm,
            "gpu": f"sm_{arch[0]}" if arch else None,
            "cuda": cuda,
            "driver": driver,
        },
        "gpus": [_gpu(row) for row in tables.gpu if not arch or row.arch in arch],
        "cuda": [
            _cuda(row, replace(asked, cuda=row.version), tables)
            for row in _chosen(tables.cuda, cuda)
        ],
        "tvm": [
            _tvm(row, Toolchain(tvm=row.version, cuda=cuda), tables)
            for row in _chosen(tables.tvm, tvm)
        ],
        "torch": [
            _torch(row, replace(asked, tvm=None, torch=row.version, torch_cuda=row.cuda), tables)
            for row in tables.torch
        ],
        "profiles": {
            name: _profile(one, arch, driver, tables) for name, one in sorted(profiles.items())
        },
    }


def matrix(
    tables: Tables,
    profiles: Profiles,
    *,
    tvm: str | None = None,
    gpu: str | None = None,
    cuda: str | None = None,
    driver: str | None = None,
) -> Group:
    """``as_data`` as tables for a terminal of 80 characters: first the profiles, which a user
    chooses from, then CUDA toolkits, torch and TVM."""
    data = as_data(tables, profiles, tvm=tvm, gpu=gpu, cuda=cuda, driver=driver)
    parts = []
    if data["profiles"]:
        rows = [
            (name, _mark(one), one["nearest"] or _why(one))
            for name, one in data["profiles"].items()
        ]
        parts.append(_table("Profiles", ("profile", "fits", "or else"), rows))
    gpus = {one["arch"]: one["cards"] for one in data["gpus"]}
    title = "CUDA toolkits"
    if gpu:
        found = data["asked"]["gpu"]
        cards = gpus.get(found.removeprefix("sm_"), "")
        title += f" for {found}" + (f" ({cards})" if cards else "")
    if driver:
        title += f" with driver {driver}"
    parts.append(
        _table(title, ("CUDA", "driver", "gcc", "fits", "why not"), _cuda_lines(data["cuda"]))
    )
    parts.append(
        _table(
            "torch from PyPI",
            ("torch", "CUDA", "Python", "glibc", "fits", "why not"),
            [
                (
                    one["version"],
                    one["cuda"],
                    "-".join(one["python"]),
                    f">= {one['glibc']}",
                    _mark(one),
                    _why(one),
                )
                for one in data["torch"]
            ],
        )
    )
    parts.append(
        _table(
            "TVM from source",
            ("TVM", "C++", "gcc", "LLVM", "CMake", "Python", "CUDA", "fits", "why not"),
            [
                (
                    one["version"],
                    one["cxx"],
                    f">= {one['gcc']}",
                    "-".join(one["llvm"]),
                    f">= {one['cmake']}",
                    "-".join(one["python"]),
                    f">= {one['cuda']}",
                    _mark(one),
                    _why(one),
                )
                for one in data["tvm"]
            ],
        )
    )
    return Group(*parts)


def _chosen(rows: Sequence[Any], version: str | None) -> list[Any]:
    if version is None:
        return list(rows)
    row = row_at(rows, version)
    return [row] if row else []


def _verdict(toolchain: Toolchain, tables: Tables) -> dict[str, Any]:
    faults = broken(toolchain, tables)
    return {"fits": not faults, "why": [one.reason for one in faults]}


def _gpu(row: GpuRow) -> dict[str, Any]:
    return row.model_dump(exclude={"read"})


def _cuda(row: CudaRow, toolchain: Toolchain, tables: Tables) -> dict[str, Any]:
    return {
        "version": row.version,
        "driver": row.driver_oldest,
        "gcc": [row.gcc_oldest, row.gcc_newest],
        "architectures": [
            gpu.arch
            for gpu in tables.gpu
            if not older(row.version, gpu.first) and not (gpu.last and older(gpu.last, row.version))
        ],
        **_verdict(toolchain, tables),
        "source": row.source,
    }


def _tvm(row: TvmRow, toolchain: Toolchain, tables: Tables) -> dict[str, Any]:
    cxx = next(one for one in tables.cxx if one.version == row.cxx)
    return {
        "version": row.version,
        "cxx": row.cxx,
        "gcc": cxx.gcc_oldest,
        "cuda": cxx.cuda_oldest,
        "llvm": [row.llvm_oldest, row.llvm_newest],
        "cmake": row.cmake_oldest,
        "python": [row.python_oldest, row.python_newest or ""],
        **_verdict(toolchain, tables),
        "source": row.source,
    }


def _torch(row: TorchRow, toolchain: Toolchain, tables: Tables) -> dict[str, Any]:
    return {
        "version": row.version,
        "cuda": row.cuda,
        "glibc": row.glibc,
        "python": [row.python_oldest, row.python_newest],
        **_verdict(toolchain, tables),
        "source": row.source,
    }


def _profile(
    profile: Toolchain, arch: tuple[str, ...], driver: str | None, tables: Tables
) -> dict[str, Any]:
    """A profile with the GPU and the driver asked for; one without CUDA is on no GPU."""
    uses_gpu = profile.cuda or profile.torch_cuda
    asked = replace(
        profile,
        cuda_arch=arch or profile.cuda_arch,
        driver=driver or profile.driver,
    )
    toolchain = asked if uses_gpu else profile
    best = repair.nearest(toolchain, tables, keep=frozenset({"driver"}))
    best = best or repair.nearest(toolchain, tables)
    verdict = _verdict(toolchain, tables)
    return {**verdict, "nearest": changes(toolchain, best) if best and not verdict["fits"] else ""}


def _cuda_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (f">= {one['driver']}", "-".join(one["gcc"]), _mark(one), _why(one))


def _cuda_lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Neighbours that differ in nothing but their version share a line: 11.1-11.3."""
    lines = []
    for same, group in itertools.groupby(rows, key=_cuda_cells):
        versions = [one["version"] for one in group]
        span = versions[0] if len(versions) == 1 else f"{versions[0]}-{versions[-1]}"
        lines.append((span, *same))
    return lines


def _mark(one: Mapping[str, Any]) -> str:
    return "yes" if one["fits"] else "no"


def _why(one: Mapping[str, Any]) -> str:
    """Without the messages that the tools would have printed: they follow a colon."""
    return "\n".join(reason.split(": ")[0] for reason in one["why"])


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        style = None if "no" not in row else "dim"
        table.add_row(*(escape(cell) for cell in row), style=style)
    return table
