"""The solver before the build: what it refuses, and what it proposes instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageFault
from bench.host import toolchain
from bench.host.toolchain import Toolchain, describe, repair
from bench.host.toolchain.rules import broken
from tests.unit.toolchains import (
    CPU,
    CPU_SOURCE,
    CPU_TORCH,
    CUDA_118,
    LATEST,
    LLVM10,
    PROFILES,
    TABLES,
)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fits(name: str) -> None:
    assert toolchain.problems(PROFILES[name]) == []
    toolchain.check(PROFILES[name])


# --- the required cases: what is said, and the exact nearest good one ---

CASES = {
    "compute_86 on CUDA 11.0": (
        describe(cuda="11.0", cuda_arch=["compute_86"]),
        "sm_86 on CUDA 11.0",
        "CUDA 11.1 (cuda and base in the profile)",
    ),
    "LLVM 10 with TVM v0.24": (
        describe(tvm="v0.24.0", llvm="10.0.0"),
        "LLVM 10.0.0 with TVM v0.24.0",
        "TVM v0.23.0 (--tvm-ref v0.23.0), or LLVM 15 (--llvm apt:15)",
    ),
    "the same in the profile": (
        replace(LLVM10, tvm="0.24.0"),
        "LLVM 10.0.0 with TVM v0.24.0",
        "TVM v0.23.0 (--tvm-ref v0.23.0), or LLVM 15 (--llvm apt:15)",
    ),
    "an LLVM that this TVM does not know yet": (
        describe(tvm="0.23.0", llvm="apt:22"),
        "LLVM 22 with TVM v0.23.0",
        "TVM v0.24.0 (--tvm-ref v0.24.0), or LLVM 21 (--llvm apt:21)",
    ),
    "an LLVM that the base does not package": (
        replace(CPU_SOURCE, llvm="18"),
        "LLVM 18 from debian 12's packages",
        "LLVM 19 (--llvm apt:19), or a base of ubuntu 24.04 (base in the profile)",
    ),
    "CMake 4 with an old submodule": (
        replace(LLVM10, cmake="4.1.0"),
        "CMake 4.1.0 with TVM v0.23.0's submodules",
        "cmake<4",
    ),
    "CMake too old for tvm-ffi": (
        replace(LATEST, cmake="3.25"),
        "CMake 3.25 with TVM v0.26.0",
        "cmake>=3.26, or TVM v0.25.0.post1 (--tvm-ref v0.25.0.post1)",
    ),
    "a driver too old for the toolkit": (
        describe(cuda="12.4.1", driver="470.256.02"),
        "driver 470.256.02 with CUDA 12.4.1",
        f"{CUDA_118}, or driver 525.60.13 or newer",
    ),
    "a driver too old for torch's own CUDA": (
        describe(torch="2.13.0", torch_cuda="13.0", driver="535.183.01"),
        "driver 535.183.01 with torch's CUDA 13.0",
        "torch 2.10.0 with CUDA 12.8, or driver 580.65.06 or newer",
    ),
    "no torch with CUDA is old enough for the driver": (
        describe(torch="2.13.0", torch_cuda="13.0", driver="470"),
        "driver 470 with torch's CUDA 13.0",
        f"driver 580.65.06 or newer, or {CPU_TORCH}",
    ),
    "an architecture dropped by the toolkit": (
        describe(cuda="13.0", cuda_arch=["70"]),
        "sm_70 on CUDA 13.0",
        "CUDA 12.9 (cuda and base in the profile)",
    ),
    "an architecture dropped by torch's toolkit": (
        describe(torch="2.13.0", torch_cuda="13.0", cuda_arch=["70"]),
        "sm_70 on torch's CUDA 13.0",
        "torch 2.10.0 with CUDA 12.8",
    ),
    "an architecture that was renamed": (
        describe(cuda="13.0", cuda_arch=["101"]),
        "sm_101 on CUDA 13.0",
        "CUDA 12.9 (cuda and base in the profile), or --cuda-arch 110",
    ),
    "an architecture that does not exist": (
        describe(cuda="12.4", cuda_arch=["85", "90"]),
        "GPU architecture '85'",
        "--cuda-arch 86,90",
    ),
    "gcc too new for nvcc": (
        describe(cuda="12.4", gcc="14"),
        "gcc 14 with CUDA 12.4",
        "gcc 13, or CUDA 12.8 (cuda and base in the profile)",
    ),
    "gcc too old for C++20": (
        describe(tvm="0.26.0", gcc="9"),
        "gcc 9 with TVM v0.26.0",
        "TVM v0.25.0.post1 (--tvm-ref v0.25.0.post1), or gcc 10",
    ),
    "nvcc too old for C++20": (
        describe(tvm="0.26.0", cuda="11.8"),
        "CUDA 11.8 with TVM v0.26.0",
        "CUDA 12.0 (cuda and base in the profile), or TVM v0.25.0.post1 (--tvm-ref v0.25.0.post1)",
    ),
    "glibc too old for torch's wheels": (
        describe(base="ubuntu:18.04", torch="2.13.0"),
        "glibc 2.27 (ubuntu 18.04) with torch 2.13.0",
        "a base of ubuntu 22.04 (base in the profile), or torch 2.6.0",
    ),
    "LLVM 10's programs without libtinfo5": (
        replace(describe(base="nvidia/cuda:12.4.1-devel-ubuntu24.04"), llvm="10.0.0", tvm="0.23.0"),
        "LLVM 10.0.0's tarball on ubuntu 24.04",
        "a base of ubuntu 22.04 (base in the profile), or LLVM 15 (--llvm apt:15)",
    ),
    "Python too new for TVM": (
        describe(tvm="0.23.0", base="debian:trixie"),
        "Python 3.13 with TVM 0.23.0",
        "TVM v0.25.0.post1 (--tvm-ref v0.25.0.post1), or a base of debian 12 (base in the profile)",
    ),
    "Python too old for torch": (
        describe(torch="2.13.0", python="3.9"),
        "Python 3.9 with torch 2.13.0",
        "Python 3.10, or torch 2.8.0",
    ),
    "a wheel that PyPI does not have": (
        replace(CPU, tvm="0.23.0"),
        "the wheel of TVM 0.23.0",
        "TVM 0.25.0.post1's wheel (tvm in [versions])",
    ),
    "a TVM before the tables": (
        describe(tvm="v0.10.0"),
        "TVM v0.10.0",
        "TVM v0.18.0 (--tvm-ref v0.18.0)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_the_nearest_good_one(name: str) -> None:
    bad, what, nearest = CASES[name]
    (problem,) = toolchain.problems(bad)
    assert (problem.what, problem.nearest) == (what, nearest)
    assert problem.source
    with pytest.raises(UsageFault) as caught:
        toolchain.check(bad)
    assert caught.value.message.splitlines() == [
        "this combination cannot work",
        f"{what}: {problem.reason}",
    ]
    assert caught.value.hint == f"nearest good combination: {nearest}"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (describe(cuda="11.0", cuda_arch=["86"]), "Unsupported gpu architecture 'compute_86'"),
        (describe(tvm="0.24.0", llvm="10"), "'LLVM version 15.0 or greater is required.'"),
        (replace(LLVM10, cmake="4.0"), "'Compatibility with CMake < 3.5 has been removed"),
        (describe(cuda="12.4", driver="470"), "'CUDA driver version is insufficient"),
        (describe(cuda="12.4", gcc="14"), "gcc versions later than 13 are not supported!"),
    ],
)
def test_a_refusal_quotes_what_the_tool_would_have_said(bad: Toolchain, words: str) -> None:
    # A user who searches the docs for the message of a failed build finds the refusal's reason.
    (problem,) = toolchain.problems(bad)
    assert words in problem.reason


def test_several_problems_get_one_answer_and_the_driver_may_stay() -> None:
    """An RTX 3090 whose driver is 470: an update of it mends both; so does what keeps it."""
    bad = replace(LLVM10, driver="470.256.02", cuda_arch=("86",))
    with pytest.raises(UsageFault) as caught:
        toolchain.check(bad)
    first, *rest = caught.value.message.splitlines()
    assert first == "this combination cannot work"
    assert [line.split(":")[0] for line in rest] == [
        "driver 470.256.02 with CUDA 12.4.1",
        "driver 470.256.02 with torch's CUDA 13.0",
    ]
    assert caught.value.hint == (
        f"nearest good combination: driver 580.65.06 or newer, or {CUDA_118} and {CPU_TORCH}"
    )


def test_much_at_once_is_mended_with_the_fewest_changes() -> None:
    """Five problems: TVM, CMake and torch must change; the driver or the toolkit as the fourth."""
    bad = replace(LLVM10, tvm="0.26.0", cmake="4.1.0", driver="470", cuda_arch=("70",))
    assert len(toolchain.problems(bad)) == 5
    assert toolchain.nearest(bad) == (
        "TVM v0.23.0 (--tvm-ref v0.23.0) and cmake<4 and torch 2.10.0 with CUDA 12.8 and "
        "driver 525.60.13 or newer, or TVM v0.23.0 (--tvm-ref v0.23.0) and cmake<4 and "
        f"{CUDA_118} and {CPU_TORCH}"
    )


def test_where_nothing_good_is_near_the_matrix_is_pointed_at() -> None:
    # Only a TVM that wants LLVM 15, and no LLVM but 10.
    few = TABLES.model_copy(update={"tvm": TABLES.tvm[-1:], "llvm": TABLES.llvm[:1]})
    with pytest.raises(UsageFault) as caught:
        toolchain.check(replace(LLVM10, tvm="0.27.0"), few)
    assert caught.value.hint == "invoke matrix shows what fits"


def test_what_is_not_known_is_not_checked() -> None:
    assert toolchain.problems(Toolchain()) == []
    assert toolchain.problems(describe(tvm="main", llvm="10.0.0", cmake="4.0")) == []
    # A wheel compiles nothing: neither the base's gcc nor an LLVM counts.
    assert toolchain.problems(replace(CPU, gcc="5", llvm="3", cmake="2.8")) == []


def test_torch_runs_what_was_compiled_for_an_earlier_gpu_of_the_same_architecture() -> None:
    # nvcc 12.8 cannot compile for sm_103, but machine code for sm_100 runs there.
    assert toolchain.problems(describe(torch="2.10.0", torch_cuda="12.8", cuda_arch=["103"])) == []
    (problem,) = toolchain.problems(describe(cuda="12.8", cuda_arch=["103"]))
    assert problem.nearest == "CUDA 12.9 (cuda and base in the profile)"


def test_an_unknown_cpu_is_a_note_and_no_refusal() -> None:
    zen4 = replace(LLVM10, mcpu="znver4")
    assert toolchain.problems(zen4) == []
    (note,) = toolchain.notes(zen4)
    assert note.startswith("LLVM 10.0.0 does not know the CPU znver4 (LLVM 16 does)")
    assert toolchain.notes(replace(zen4, llvm="16")) == []


def test_what_is_newer_than_the_tables_is_noted() -> None:
    new = replace(LATEST, tvm="0.99.0", torch="9.0.0")
    assert toolchain.problems(new) == []
    assert toolchain.notes(new) == [
        f"TVM 0.99.0 is newer than the tables, which end at {TABLES.tvm[-1].version}",
        f"torch 9.0.0 is newer than the tables, which end at {TABLES.torch[-1].version}",
    ]


def test_the_cpp_standard_is_tvms() -> None:
    assert toolchain.cxx_standard(LLVM10, TABLES) == "17"
    assert toolchain.cxx_standard(LATEST, TABLES) == "20"
    assert toolchain.cxx_standard(CPU, TABLES) is None


# --- properties ---


def _any(table: str, field: str = "version") -> st.SearchStrategy[str | None]:
    return st.sampled_from(
        [None, *dict.fromkeys(getattr(r, field) for r in getattr(TABLES, table))]
    )


TOOLCHAINS = st.builds(
    Toolchain,
    tvm=_any("tvm") | st.sampled_from(["0.10.0", "0.99.0", "main"]),
    tvm_wheel=st.booleans(),
    llvm=_any("llvm") | st.sampled_from(["10.0.0", "12", "99"]),
    llvm_packaged=st.booleans(),
    cmake=_any("cmake"),
    gcc=_any("gcc") | st.sampled_from(["5", "99"]),
    cuda=_any("cuda") | st.sampled_from(["9.0", "12.4.1", "14.0"]),
    cuda_arch=st.lists(
        st.sampled_from([row.arch for row in TABLES.gpu] + ["85"]), max_size=3, unique=True
    ).map(tuple),
    driver=_any("cuda", "driver_oldest") | st.sampled_from(["390", "470.256.02", "535"]),
    distribution=_any("distribution", "name"),
    glibc=_any("distribution", "glibc"),
    python=_any("torch", "python_newest") | st.sampled_from(["3.6", "3.9", "3.99"]),
    torch=_any("torch"),
    torch_cuda=_any("torch", "cuda"),
)


@settings(max_examples=100, deadline=None)
@given(TOOLCHAINS)
def test_every_proposal_is_good(any_one: Toolchain) -> None:
    for problem in toolchain.problems(any_one):
        assert bool(problem.nearest) == bool(problem.proposals)
        for proposal in problem.proposals:
            assert broken(proposal, TABLES) == []
            assert proposal != any_one


@settings(max_examples=50, deadline=None)
@given(TOOLCHAINS)
def test_the_answer_does_not_depend_on_the_run(any_one: Toolchain) -> None:
    assert toolchain.problems(any_one) == toolchain.problems(any_one)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sorted(PROFILES)),
    st.sampled_from(["tvm", "llvm", "cmake", "cuda", "gcc"]),
    st.data(),
)
def test_one_part_astray_is_led_back(name: str, part: str, data: st.DataObject) -> None:
    """A profile with one part exchanged always finds a way, and it is a short one."""
    value = data.draw(_any(part))
    changed: dict[str, Any] = {part: value}
    bad = replace(PROFILES[name], **changed)
    for problem in toolchain.problems(bad):
        assert problem.nearest
        assert problem.nearest.split(", or ")[0].count(" and ") <= 2


@settings(max_examples=60, deadline=None)
@given(TOOLCHAINS)
def test_no_more_parts_change_than_must(any_one: Toolchain) -> None:
    """Against every single change of a part that a problem is about, tried one by one."""
    best = repair.nearest(any_one, TABLES)
    faults = broken(any_one, TABLES)
    if not faults:
        assert best == any_one
        return
    parts = {part for fault in faults for part in fault.parts}
    moves = (move for part in parts for move in repair.moves(any_one, part, TABLES))
    single = {one for _, one in moves if not broken(one, TABLES)}
    assert not single or best in single
