"""A toolchain, and the rules that its parts must meet: one rule is one function over the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.host.toolchain.tables import (
    CudaRow,
    GpuRow,
    Tables,
    TvmRow,
    numbers,
    older,
    row_at,
)


@dataclass(frozen=True)
class Toolchain:
    """What an image is made with and runs on. None: not known or not used, so not checked.

    ``tvm_wheel``: TVM comes as a wheel, so nothing is compiled. ``llvm_packaged``: LLVM is the
    distribution's llvm-N-dev, not the release's tarball. ``driver``: the host's. ``torch_cuda``:
    the CUDA that torch brings, None for its CPU build. ``mcpu``: the CPU compiled for.
    """

    tvm: str | None = None
    tvm_wheel: bool = False
    llvm: str | None = None
    llvm_packaged: bool = False
    cmake: str | None = None
    gcc: str | None = None
    cuda: str | None = None
    cuda_arch: tuple[str, ...] = ()
    driver: str | None = None
    distribution: str | None = None
    glibc: str | None = None
    python: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    mcpu: str | None = None


@dataclass(frozen=True)
class Broken:
    """A rule that is not met. ``parts``: the fields that could be changed to meet it."""

    what: str
    reason: str
    parts: tuple[str, ...]
    source: str


Rule = Callable[[Toolchain, Tables], Iterator[Broken]]


def broken(toolchain: Toolchain, tables: Tables) -> list[Broken]:
    """Every rule that is not met, in the order of the rules; no I/O."""
    return [one for rule in RULES for one in rule(toolchain, tables)]


def cxx_standard(toolchain: Toolchain, tables: Tables) -> str | None:
    """The C++ standard that this TVM is compiled with; None where none is compiled."""
    tvm = _built(toolchain, tables)
    return tvm.cxx if tvm else None


def _built(toolchain: Toolchain, tables: Tables) -> TvmRow | None:
    return None if toolchain.tvm_wheel else row_at(tables.tvm, toolchain.tvm)


def _tvm_known(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    first = tables.tvm[0]
    if toolchain.tvm and numbers(toolchain.tvm) and older(toolchain.tvm, first.version):
        yield Broken(
            f"TVM v{toolchain.tvm.lstrip('v')}",
            f"nothing before v{first.version} was looked into: it is too old for this project",
            ("tvm",),
            first.source,
        )


def _wheel(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    tvm = row_at(tables.tvm, toolchain.tvm)
    if toolchain.tvm_wheel and tvm and tvm.wheel_glibc is None:
        yield Broken(
            f"the wheel of TVM {toolchain.tvm}",
            "PyPI has no wheel of it",
            ("tvm",),
            "PyPI: apache-tvm, its releases",
        )


def _llvm(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    tvm, llvm = _built(toolchain, tables), toolchain.llvm
    if tvm is None or llvm is None:
        return
    if older(llvm, tvm.llvm_oldest):
        yield Broken(
            f"LLVM {llvm} with TVM v{tvm.version}",
            f"this TVM stops at configure with LLVM before {tvm.llvm_oldest}: "
            f"'LLVM version {tvm.llvm_oldest}.0 or greater is required.'",
            ("tvm", "llvm"),
            tvm.source,
        )
    if older(tvm.llvm_newest, llvm):
        yield Broken(
            f"LLVM {llvm} with TVM v{tvm.version}",
            f"this TVM knows LLVM's interfaces up to {tvm.llvm_newest}; they change with each "
            "major version",
            ("llvm", "tvm"),
            tvm.source,
        )


def _packaged_llvm(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    base = tables.distribution_of(toolchain.distribution)
    if toolchain.tvm_wheel or not toolchain.llvm_packaged or base is None or not base.llvm_all:
        return
    if toolchain.llvm and toolchain.llvm.split(".")[0] not in base.llvm:
        yield Broken(
            f"LLVM {toolchain.llvm} from {base.name}'s packages",
            f"{base.name} has llvm-N-dev for {', '.join(base.llvm)} only",
            ("llvm", "distribution"),
            base.source,
        )


def _tinfo(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    base = tables.distribution_of(toolchain.distribution)
    llvm = row_at(tables.llvm, toolchain.llvm)
    if toolchain.tvm_wheel or toolchain.llvm_packaged or base is None or llvm is None:
        return
    if llvm.needs_tinfo5 and not base.tinfo5:
        yield Broken(
            f"LLVM {toolchain.llvm}'s tarball on {base.name}",
            f"its programs need libtinfo.so.5, and {base.name} has no package libtinfo5: "
            "llvm-config would not start",
            ("distribution", "llvm"),
            f"{base.source}; {llvm.source}",
        )


def _cmake(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    tvm, cmake = _built(toolchain, tables), toolchain.cmake
    if tvm is None or cmake is None:
        return
    if older(cmake, tvm.cmake_oldest):
        yield Broken(
            f"CMake {cmake} with TVM v{tvm.version}",
            f"it asks for CMake {tvm.cmake_oldest} or newer",
            ("cmake", "tvm"),
            tvm.source,
        )
    row = row_at(tables.cmake, cmake)
    if row and row.policy_oldest and older(tvm.policy, row.policy_oldest):
        yield Broken(
            f"CMake {cmake} with TVM v{tvm.version}'s submodules",
            f"{tvm.policy_of} asks for CMake {tvm.policy}: 'Compatibility with CMake < "
            f"{row.policy_oldest} has been removed from CMake.'",
            ("cmake",),
            f"{tvm.source}; {row.source}",
        )


def _cxx(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    tvm = _built(toolchain, tables)
    if tvm is None:
        return
    cxx = next(row for row in tables.cxx if row.version == tvm.cxx)
    if toolchain.gcc and older(toolchain.gcc, cxx.gcc_oldest):
        yield Broken(
            f"gcc {toolchain.gcc} with TVM v{tvm.version}",
            f"it is written in C++{cxx.version}, which needs gcc {cxx.gcc_oldest} or newer",
            ("gcc", "distribution", "tvm"),
            cxx.source,
        )
    if toolchain.cuda and older(toolchain.cuda, cxx.cuda_oldest):
        yield Broken(
            f"CUDA {toolchain.cuda} with TVM v{tvm.version}",
            f"it is written in C++{cxx.version}, which nvcc takes from CUDA {cxx.cuda_oldest} on",
            ("cuda", "tvm"),
            cxx.source,
        )


def _nvcc_host(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    cuda, gcc = row_at(tables.cuda, toolchain.cuda), toolchain.gcc
    if cuda is None or gcc is None:
        return
    if older(cuda.gcc_newest, gcc):
        yield Broken(
            f"gcc {gcc} with CUDA {toolchain.cuda}",
            "nvcc stops with 'unsupported GNU version! gcc versions later than "
            f"{cuda.gcc_newest} are not supported!'",
            ("gcc", "cuda", "distribution"),
            cuda.source,
        )
    if older(gcc, cuda.gcc_oldest):
        yield Broken(
            f"gcc {gcc} with CUDA {toolchain.cuda}",
            f"nvcc asks for gcc {cuda.gcc_oldest} or newer",
            ("gcc", "distribution", "cuda"),
            cuda.source,
        )


def _arch(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    for arch in toolchain.cuda_arch:
        gpu = tables.gpu_of(arch)
        if gpu is None:
            known = ", ".join(row.arch for row in tables.gpu)
            yield Broken(
                f"GPU architecture {arch!r}",
                f"no toolkit in the tables knows it; they know {known}",
                ("cuda_arch",),
                tables.gpu[0].source,
            )
            continue
        for cuda, owner, part in (
            (toolchain.cuda, "CUDA", "cuda"),
            (toolchain.torch_cuda, "torch's CUDA", "torch"),
        ):
            if cuda is None:
                continue
            refused = "" if part == "torch" else f": Unsupported gpu architecture 'compute_{arch}'"
            first = _first_that_runs(gpu, tables) if part == "torch" else gpu.first
            if older(cuda, first):
                reason = f"sm_{arch} is known from CUDA {first} on{refused}"
            elif gpu.last and older(gpu.last, cuda):
                reason = f"CUDA {gpu.last} is the last that knows sm_{arch}{refused}"
                if gpu.renamed:
                    reason += f"; from the next on it is called sm_{gpu.renamed}"
            else:
                continue
            parts = (part, "cuda_arch") if gpu.renamed else (part,)
            yield Broken(f"sm_{arch} on {owner} {cuda}", reason, parts, gpu.source)


def _first_that_runs(gpu: GpuRow, tables: Tables) -> str:
    """The first toolkit with code for this GPU: machine code runs on later minor versions of its
    architecture too, so that of sm_80 on sm_86."""
    major = int(gpu.arch) // 10
    return next(row.first for row in tables.gpu if int(row.arch) // 10 == major)


def _driver(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    driver = toolchain.driver
    if driver is None:
        return
    tvm = row_at(tables.tvm, toolchain.tvm) if toolchain.tvm_wheel else None
    for cuda, owner, parts in (
        (toolchain.cuda, "CUDA", ("cuda", "driver")),
        (toolchain.torch_cuda, "torch's CUDA", ("torch", "driver")),
        (tvm.wheel_cuda if tvm else None, "the TVM wheel's CUDA", ("driver",)),
    ):
        row: CudaRow | None = row_at(tables.cuda, cuda)
        if row and older(driver, row.driver_oldest):
            yield Broken(
                f"driver {driver} with {owner} {cuda}",
                f"it needs driver {row.driver_oldest} or newer: 'CUDA driver version is "
                "insufficient for CUDA runtime version'",
                parts,
                row.source,
            )


def _glibc(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    if toolchain.glibc is None:
        return
    torch = row_at(tables.torch, toolchain.torch)
    tvm = row_at(tables.tvm, toolchain.tvm) if toolchain.tvm_wheel else None
    where = f"glibc {toolchain.glibc}" + (
        f" ({toolchain.distribution})" if toolchain.distribution else ""
    )
    if torch and older(toolchain.glibc, torch.glibc):
        yield Broken(
            f"{where} with torch {toolchain.torch}",
            f"its wheels are for glibc {torch.glibc} or newer (manylinux)",
            ("distribution", "torch"),
            torch.source,
        )
    if tvm and tvm.wheel_glibc and older(toolchain.glibc, tvm.wheel_glibc):
        yield Broken(
            f"{where} with the wheel of TVM {tvm.version}",
            f"it is for glibc {tvm.wheel_glibc} or newer (manylinux)",
            ("distribution",),
            tvm.source,
        )


def _python(toolchain: Toolchain, tables: Tables) -> Iterator[Broken]:
    python = toolchain.python
    if python is None:
        return
    # A base brings its Python: where the base is known, it is what has to change.
    place = ("distribution",) if toolchain.distribution else ("python", "distribution")
    for row, name, part in (
        (row_at(tables.tvm, toolchain.tvm), "TVM", "tvm"),
        (row_at(tables.torch, toolchain.torch), "torch", "torch"),
    ):
        if row is None:
            continue
        if older(python, row.python_oldest):
            reason = f"it needs Python {row.python_oldest} or newer"
        elif row.python_newest and older(row.python_newest, python):
            reason = f"Python {row.python_newest} is the newest that it names"
        else:
            continue
        yield Broken(
            f"Python {python} with {name} {row.version}", reason, (part, *place), row.source
        )


RULES: tuple[Rule, ...] = (
    _tvm_known,
    _wheel,
    _llvm,
    _packaged_llvm,
    _tinfo,
    _cmake,
    _cxx,
    _nvcc_host,
    _arch,
    _driver,
    _glibc,
    _python,
)
