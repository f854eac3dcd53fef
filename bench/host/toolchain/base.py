"""A toolchain from a profile's few words: a base image's tag says its distribution."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from bench.host.pins import Pins
from bench.host.toolchain.rules import Toolchain
from bench.host.toolchain.tables import (
    DistributionRow,
    Tables,
    arch_number,
    load_tables,
    numbers,
)

WHEEL = "wheel"
PACKAGED = "apt:"


def describe(
    *,
    tvm: str | None = None,
    tvm_version: str | None = None,
    llvm: str | None = None,
    cmake: str | None = None,
    gcc: str | None = None,
    cuda: str | None = None,
    cuda_arch: Sequence[str] = (),
    driver: str | None = None,
    base: str | None = None,
    python: str | None = None,
    torch: str | None = None,
    torch_cuda: str | None = None,
    mcpu: str | None = None,
    tables: Tables | None = None,
) -> Toolchain:
    """A toolchain of strings as they stand in docker/pins.toml and in options.

    ``tvm``: "wheel" (then ``tvm_version`` says of which release), "0.23.0" or "v0.23.0"; a branch
    or a commit is nothing that can be checked. ``llvm``: "10.0.0", or "apt:14" for the
    distribution's. ``cuda_arch``: "86", "sm_86", "8.6", … ``base``: an image reference, whose tag
    gives the distribution and with it gcc, glibc and Python where these are not given; the base
    that ``nvidia/cuda`` names gives the toolkit too.
    """
    row = distribution(base, tables or load_tables())
    release = tvm_version if tvm == WHEEL else tvm
    return Toolchain(
        tvm=release.removeprefix("v") if release and numbers(release) else release,
        tvm_wheel=tvm == WHEEL,
        llvm=llvm.removeprefix(PACKAGED) if llvm else None,
        llvm_packaged=bool(llvm and llvm.startswith(PACKAGED)),
        cmake=cmake,
        gcc=gcc or (row.gcc if row else None),
        cuda=cuda or _toolkit(base),
        cuda_arch=tuple(arch_number(arch) for arch in cuda_arch),
        driver=driver,
        distribution=row.name if row else None,
        glibc=row.glibc if row else None,
        python=python or (row.python if row else None),
        torch=torch,
        torch_cuda=torch_cuda,
        mcpu=mcpu,
    )


def of_profile(
    pinned: Pins,
    name: str,
    *,
    tvm: str | None = None,
    llvm: str | None = None,
    cuda: str | None = None,
    cuda_arch: Sequence[str] = (),
    base: str | None = None,
    driver: str | None = None,
    mcpu: str | None = None,
) -> Toolchain:
    """The toolchain of a profile of docker/pins.toml, with what the user gave instead of its pins.

    ``llvm=""`` is an LLVM whose version is not known, such as one by ``--llvm-url``.

    Raises:
        UsageFault: there is no such profile.
    """
    profile, versions = pinned.profile(name), pinned.versions
    return describe(
        tvm=tvm or profile.tvm,
        tvm_version=versions.tvm,
        llvm=profile.llvm if llvm is None else llvm,
        cmake=versions.cmake if (tvm or profile.tvm) != WHEEL else None,
        cuda=cuda or profile.cuda,
        cuda_arch=cuda_arch or profile.cuda_arch,
        driver=driver,
        base=base or profile.base,
        torch=versions.torch,
        torch_cuda=versions.torch_cuda if profile.torch == "cuda" else None,
        mcpu=mcpu,
    )


def distribution(base: str | None, tables: Tables) -> DistributionRow | None:
    """The distribution that an image reference names, by number or code name; None if it names
    none that the tables know."""
    words = re.split(r"[^a-z0-9.]+", (base or "").split("@", 1)[0].lower())
    for row in tables.distribution:
        family, number = row.name.split()
        # ubuntu22.04 and debian12 in one word, ubuntu:22.04 in two, or jammy.
        together = f"{family}{number}" in words
        apart = (family, number) in itertools.pairwise(words)
        if together or apart or row.codename in words:
            return row
    return None


def _toolkit(base: str | None) -> str | None:
    found = re.search(r"nvidia/cuda:(\d+\.\d+(?:\.\d+)?)-", base or "")
    return found[1] if found else None
