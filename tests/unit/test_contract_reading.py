"""What the contract reads: ELF files against readelf, versions, CMake's notions of truth."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest

from bench.build import elf
from bench.build.cmake_cache import architectures, is_on
from bench.build.versions import has_version, in_range
from tests.unit import elves


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return elves.library(tmp_path / "libtvm.so", elves.PLAIN, "-g")


def test_a_library_that_is_cut_short_is_told_by_the_reader(library: Path) -> None:
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(elf.NotElf):
        elf.read(library)


def test_a_damaged_library_never_costs_more_than_its_own_answer(library: Path) -> None:
    whole = library.read_bytes()
    random = Random(3)
    told = 0
    for _ in range(300):
        damaged = bytearray(whole)
        # The header and the tables at the end are where the numbers are that can mislead.
        for at in random.choices([*range(4, 64), *range(len(whole) - 2048, len(whole))], k=4):
            damaged[at] = random.randrange(256)
        library.write_bytes(damaged)
        try:
            elf.read(library)
            elf.producers(library)
        except elf.NotElf:
            told += 1
    assert 0 < told < 300


def test_what_the_reader_says_is_what_readelf_says(library: Path) -> None:
    elves.needing_driver(library)
    said = subprocess.run(
        ["readelf", "-dnW", "--dyn-syms", str(library)], capture_output=True, text=True
    ).stdout
    told = elf.read(library)
    assert told.build_id is not None and f"Build ID: {told.build_id}" in said
    assert told.soname == "libtvm.so"
    assert [f"[{name}]" for name in told.needed] == [
        line.split()[-1] for line in said.splitlines() if "(NEEDED)" in line
    ]
    assert {"cuInit", "cuMemcpyHtoD_v2"} <= set(told.undefined)
    assert "answer" not in told.undefined


def test_cmakes_truth() -> None:
    off = ("OFF", "off", "0", "NO", "", "FALSE", "IGNORE", "NOTFOUND", "LLVM-NOTFOUND", "NOT-FOUND")
    assert not any(map(is_on, off))
    assert all(map(is_on, ("ON", "1", "/llvm/bin/llvm-config --link-static")))


def test_architectures_in_any_spelling() -> None:
    assert architectures("86;80") == architectures(["sm_80", "86"]) == ["80", "86"]
    assert architectures("90a-real, compute_80") == ["80", "90a"]


def test_versions_in_part_and_in_a_range() -> None:
    assert has_version("14.0.6", "14") and has_version("2.13.0+cpu", "2.13.0")
    assert not has_version("140.1", "14") and not has_version("3.11.2", "3.1")
    assert in_range("3.31.10", ">=3.24,<4") and in_range("3.24", ">=3.24.0")
    assert not in_range("4.0.0", ">=3.24,<4") and not in_range("3.9", ">=3.24,<4")
    with pytest.raises(ValueError, match="no range"):
        in_range("3.31", "about 3")
