"""What the solver knows: its tables, what a base's tag says, and the matrix made of both."""

from __future__ import annotations

import io
import itertools
import json

import pytest
from rich.console import Console

from bench.errors import UsageFault
from bench.host import pins, toolchain
from bench.host.toolchain import describe
from bench.host.toolchain.tables import Row, arch_number, numbers, older, row_at
from tests.unit.toolchains import CPU_TORCH, CUDA_118, DIGEST, PROFILES, TABLES

# --- a base's tag ---


@pytest.mark.parametrize(
    ("base", "name", "gcc", "python"),
    [
        ("nvidia/cuda:12.4.1-devel-ubuntu22.04", "ubuntu 22.04", "11", "3.10"),
        ("ubuntu:noble", "ubuntu 24.04", "13", "3.12"),
        (f"debian:bookworm-slim{DIGEST}", "debian 12", "12", "3.11"),
        ("debian:13-slim", "debian 13", "14", "3.13"),
        ("gpt-frontend/base:bookworm", "debian 12", "12", "3.11"),
        ("registry.example:5000/ubuntu:22.04", "ubuntu 22.04", "11", "3.10"),
    ],
)
def test_a_base_brings_its_compiler_and_python(base: str, name: str, gcc: str, python: str) -> None:
    got = describe(base=base)
    assert (got.distribution, got.gcc, got.python) == (name, gcc, python)


@pytest.mark.parametrize("base", [None, "alpine:3.20", "mine/image:latest"])
def test_an_unknown_base_says_nothing(base: str | None) -> None:
    got = describe(base=base)
    assert (got.distribution, got.gcc, got.glibc, got.python) == (None, None, None, None)


def test_the_toolkit_of_an_nvidia_base_is_in_its_tag() -> None:
    assert describe(base="nvidia/cuda:11.8.0-devel-ubuntu22.04").cuda == "11.8.0"
    assert describe(base="debian:bookworm").cuda is None


@pytest.mark.parametrize("text", ["86", "sm_86", "compute_86", "8.6", "86-real", "86-virtual"])
def test_an_architecture_is_read_in_every_spelling(text: str) -> None:
    assert arch_number(text) == "86"


def test_the_letter_of_an_architecture_is_dropped() -> None:
    assert [arch_number(one) for one in ("90a", "sm_100f", "90a-real")] == ["90", "100", "90"]


def test_versions_compare_as_far_as_both_go() -> None:
    assert older("3.9", "3.10")
    assert not older("525", "525.60.13") and not older("11.4.3", "11.4")
    assert older("470.256.02", "525")
    assert numbers("v0.25.0.post1") == (0, 25, 0)
    assert row_at(TABLES.tvm, "0.1") is None
    row = row_at(TABLES.tvm, "0.23.1")
    assert row is not None and row.version == "0.23.0"


# --- the tables ---


def test_every_row_has_a_source_that_can_be_looked_up() -> None:
    for table in type(TABLES).model_fields:
        rows: tuple[Row, ...] = getattr(TABLES, table)
        assert rows, table
        for row in rows:
            assert any(
                sign in row.source
                for sign in ("https://", "PyPI: ", "@v", "github.com/", "@1d335f8")
            ), (table, row)


@pytest.mark.parametrize("table", ["tvm", "cxx", "llvm", "cmake", "gcc", "cuda", "torch"])
def test_versions_rise_without_repeats(table: str) -> None:
    versions = [numbers(row.version) for row in getattr(TABLES, table)]
    assert versions == sorted(set(versions))


def test_limits_only_rise_and_ranges_are_not_empty() -> None:
    def rises(values: list[str]) -> None:
        for before, after in itertools.pairwise(values):
            assert not older(after, before), values

    for field in ("cxx", "llvm_oldest", "llvm_newest", "cmake_oldest", "python_oldest"):
        rises([getattr(row, field) for row in TABLES.tvm])
    for field in ("gcc_oldest", "gcc_newest", "driver_oldest"):
        rises([getattr(row, field) for row in TABLES.cuda])
    for field in ("cuda", "glibc", "python_oldest", "python_newest"):
        rises([getattr(row, field) for row in TABLES.torch])
    assert all(not older(row.llvm_newest, row.llvm_oldest) for row in TABLES.tvm)
    assert all(not older(row.gcc_newest, row.gcc_oldest) for row in TABLES.cuda)


def test_the_tables_refer_to_each_other() -> None:
    standards = {row.version for row in TABLES.cxx}
    llvms = {row.version for row in TABLES.llvm}
    archs = [int(row.arch) for row in TABLES.gpu]
    toolkits = [row.version for row in TABLES.cuda]
    assert {row.cxx for row in TABLES.tvm} == standards
    assert archs == sorted(set(archs))
    for gpu in TABLES.gpu:
        assert gpu.last is None or (gpu.last in toolkits and not older(gpu.last, gpu.first))
        assert gpu.renamed is None or TABLES.gpu_of(gpu.renamed)
    assert {row.cuda for row in TABLES.torch} <= set(toolkits)
    gccs = {row.version for row in TABLES.gcc}
    assert {row.gcc for row in TABLES.distribution} <= gccs
    # 9 is older than anything here can use.
    assert {one for row in TABLES.distribution for one in row.llvm} - {"9"} <= llvms


def test_no_minor_toolkit_is_missing() -> None:
    """12.7 was never released; any other gap would be a row forgotten."""
    known = {numbers(row.version)[:2] for row in TABLES.cuda}
    for major in {major for major, _ in known}:
        minors = [minor for one, minor in known if one == major]
        missing = set(range(max(minors) + 1)) - set(minors)
        assert missing == ({7} if major == 12 else set())


PINNED = pins.load()


def test_what_the_project_pins_is_inside_the_tables() -> None:
    assert numbers(PINNED.versions.tvm) <= numbers(TABLES.tvm[-1].version)
    torch = row_at(TABLES.torch, PINNED.versions.torch)
    assert torch is not None and torch.version == PINNED.versions.torch
    # The tables have the release, such as 13.0; the pin may name a later update of it.
    assert numbers(PINNED.versions.torch_cuda)[:2] == numbers(torch.cuda)


@pytest.mark.parametrize("name", PINNED.profiles)
def test_every_pinned_profile_fits(name: str) -> None:
    got = toolchain.of_profile(PINNED, name)
    assert toolchain.problems(got) == []
    assert toolchain.notes(got) == []
    # Nothing is good only because it was not recognised.
    assert got.tvm and got.distribution and got.gcc and got.glibc and got.python and got.torch
    assert got.tvm_wheel or (got.llvm and got.cmake)


def test_an_option_takes_a_pins_place() -> None:
    got = toolchain.of_profile(
        PINNED, "llvm10", tvm="v0.24.0", cuda_arch=["sm_90"], driver="535", mcpu="znver4"
    )
    assert (got.tvm, got.cuda_arch, got.driver) == ("0.24.0", ("90",), "535")
    assert toolchain.problems(got)[0].what == "LLVM 10.0.0 with TVM v0.24.0"
    assert toolchain.of_profile(PINNED, "llvm10", llvm="").llvm is None
    with pytest.raises(UsageFault):
        toolchain.of_profile(PINNED, "nonesuch")


# --- the matrix ---


def test_the_matrix_shows_at_once_what_a_3090_with_driver_470_can_use() -> None:
    data = toolchain.as_data(TABLES, PROFILES, gpu="sm_86", driver="470.256.02")
    fits = [row["version"] for row in data["cuda"] if row["fits"]]
    assert fits == [f"11.{minor}" for minor in range(1, 9)]
    assert [row["cards"] for row in data["gpus"]] == ["RTX 30, A10, A40"]
    assert not any(row["fits"] for row in data["torch"])
    assert {name: one["fits"] for name, one in data["profiles"].items()} == {
        "cpu": True,
        "cpu-source": True,
        "cuda-wheels": False,
        "latest": False,
        "llvm10": False,
    }
    assert data["profiles"]["llvm10"]["nearest"] == f"{CUDA_118} and {CPU_TORCH}"


def test_the_matrix_narrows_to_what_is_asked_for() -> None:
    data = toolchain.as_data(TABLES, {}, tvm="v0.26.0", cuda="11.8")
    (cuda,), (tvm,) = data["cuda"], data["tvm"]
    assert (cuda["version"], tvm["version"]) == ("11.8", "0.26.0")
    assert not cuda["fits"] and not tvm["fits"]
    assert "C++20" in tvm["why"][0]
    assert all(row["source"] for row in [cuda, tvm])


def test_the_matrix_is_json_and_a_table() -> None:
    data = toolchain.as_data(TABLES, PROFILES, gpu="8.6", driver="470")
    assert json.loads(json.dumps(data)) == data
    out = io.StringIO()
    drawn = toolchain.matrix(TABLES, PROFILES, gpu="8.6", driver="470")
    Console(file=out, width=80).print(drawn)
    lines = out.getvalue().splitlines()
    assert "CUDA toolkits for sm_86 (RTX 30, A10, A40) with driver 470" in out.getvalue()
    assert any(line.split()[:1] == ["11.5-11.8"] and "yes" in line.split() for line in lines)
    assert max(len(line) for line in lines) <= 80
