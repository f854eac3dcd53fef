"""tables.toml as typed, frozen rows, and how versions in it are compared and looked up."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES_FILE = Path(__file__).with_name("tables.toml")

Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*(\.post\d+)?$")]
Words = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Row(BaseModel):
    """One fact: where it is from, and whether that source itself was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Words
    read: bool


class TvmRow(Row):
    """A release of TVM. ``wheel_glibc`` is None where PyPI has no wheel of it."""

    version: Version
    cxx: Version
    llvm_oldest: Version
    llvm_newest: Version
    cmake_oldest: Version
    policy: Version
    policy_of: Words
    python_oldest: Version
    python_newest: Version | None = None
    wheel_glibc: Version | None = None
    wheel_cuda: Version | None = None


class CxxRow(Row):
    """A C++ standard, and the oldest compilers that take it."""

    version: Version
    gcc_oldest: Version
    cuda_oldest: Version


class LlvmRow(Row):
    """A major version of LLVM."""

    version: Version
    needs_tinfo5: bool = False


class CpuRow(Row):
    """A target CPU, and the first LLVM looked into that has it."""

    name: Words
    llvm_oldest: Version


class CmakeRow(Row):
    """A version of CMake, and the lowest cmake_minimum_required that it configures."""

    version: Version
    policy_oldest: Version | None = None


class GccRow(Row):
    """A major version of gcc."""

    version: Version


class CudaRow(Row):
    """A CUDA toolkit: the compilers it takes and the driver that runs what it made."""

    version: Version
    gcc_oldest: Version
    gcc_newest: Version
    driver_oldest: Version


class GpuRow(Row):
    """A GPU architecture, and the first and last toolkit that compiles for it."""

    arch: Annotated[str, StringConstraints(pattern=r"^\d+$")]
    first: Version
    last: Version | None = None
    renamed: str | None = None
    cards: str = ""


class DistributionRow(Row):
    """What a base brings. ``llvm``: llvm-N-dev packages it has; all of them if ``llvm_all``."""

    name: Words
    codename: Words
    gcc: Version
    glibc: Version
    python: Version | None = None
    tinfo5: bool
    llvm: tuple[Version, ...] = ()
    llvm_all: bool = False


class TorchRow(Row):
    """A release of torch: PyPI's wheel, which brings the CUDA it is built with."""

    version: Version
    cuda: Version
    glibc: Version
    python_oldest: Version
    python_newest: Version


class Tables(BaseModel):
    """The whole file; every table in rising order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tvm: tuple[TvmRow, ...]
    cxx: tuple[CxxRow, ...]
    llvm: tuple[LlvmRow, ...]
    cpu: tuple[CpuRow, ...]
    cmake: tuple[CmakeRow, ...]
    gcc: tuple[GccRow, ...]
    cuda: tuple[CudaRow, ...]
    gpu: tuple[GpuRow, ...]
    distribution: tuple[DistributionRow, ...]
    torch: tuple[TorchRow, ...]

    def gpu_of(self, arch: str) -> GpuRow | None:
        return next((row for row in self.gpu if row.arch == arch), None)

    def distribution_of(self, name: str | None) -> DistributionRow | None:
        return next((row for row in self.distribution if row.name == name), None)


@functools.cache
def load_tables() -> Tables:
    """The tables that come with the project; read once."""
    return Tables.model_validate(tomllib.loads(TABLES_FILE.read_text(encoding="utf-8")))


@functools.cache
def numbers(version: str) -> tuple[int, ...]:
    """``v0.25.0.post1`` → (0, 25, 0); what has no number in front → ()."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def older(this: str, that: str) -> bool:
    """Whether one version is older than the other, as far as both say: 11.4 is not older than
    11.4.3, nor 525 than 525.60.13."""
    here, there = numbers(this), numbers(that)
    least = min(len(here), len(there))
    return here[:least] < there[:least]


class Versioned(Protocol):
    """A row that is looked up by its version."""

    @property
    def version(self) -> str: ...


R = TypeVar("R", bound=Versioned)


def row_at(rows: Sequence[R], version: str | None) -> R | None:
    """The newest row that is no newer than this version: what holds for it; None before the first.

    A version newer than the last row gets the last row: limits seldom loosen.
    """
    if version is None or not numbers(version):
        return None
    found = None
    for row in rows:
        if not older(version, row.version):
            found = row
    return found


def arch_number(text: str) -> str:
    """``sm_86``, ``compute_86``, ``8.6``, ``86-real``, ``90a`` → ``86`` or ``90``."""
    bare = re.sub(r"^(sm|compute)_", "", text.strip().lower())
    return re.sub(r"(?<=\d)[af]?(-(real|virtual))?$", "", bare).replace(".", "")
