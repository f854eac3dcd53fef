"""Which CPU code is generated for, where LLVM is older than the machine.

``llvm/*.json`` holds what three LLVMs answer: the names that each generates code for, and for
some of them the features that the code it generated for them made use of.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.job.compile import cpu

RECORDED = Path(__file__).parent / "llvm"
BASE = "ssse3 sse4_1 sse4_2 popcnt"
HASWELL = f"{BASE} abm avx avx2 fma f16c bmi1 bmi2 movbe aes pclmulqdq"
SKYLAKE_X = f"{HASWELL} avx512f avx512cd avx512bw avx512dq avx512vl"
ICELAKE = (
    f"{SKYLAKE_X} sha_ni gfni vaes vpclmulqdq avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni "
    "avx512_bitalg avx512_vpopcntdq"
)
SAPPHIRE = f"{ICELAKE} avx512_bf16 avx512_fp16 avx_vnni amx_tile"
ZEN3 = f"{HASWELL} sha_ni sse4a vaes vpclmulqdq"
ZEN4 = f"{ICELAKE} sse4a avx512_bf16"


class Llvm:
    """A recorded LLVM."""

    def __init__(self, version: int) -> None:
        record = json.loads((RECORDED / f"{version}.json").read_text())
        self.known = frozenset(record["cpus"].split())
        self.features: dict[str, str] = record["features"]

    def choose(self, name: str, flags: str) -> str:
        return cpu.choose(name, self.known, frozenset(flags.split()), self.features_of)

    def features_of(self, name: str) -> frozenset[str]:
        return frozenset(self.features[name].split())


@pytest.mark.parametrize(
    ("version", "name", "flags", "chosen"),
    [
        (10, "generic", ZEN4, "icelake-server"),
        (14, "generic", ZEN4, "icelake-server"),
        (19, "znver4", ZEN4, "znver4"),
        (19, "generic", f"{ZEN4} avx_vnni", "znver4"),
        (14, "znver4", ZEN4, "icelake-server"),
        (10, "generic", ZEN3, "znver2"),
        (14, "znver3", ZEN3, "znver3"),
        (10, "sapphirerapids", SAPPHIRE, "icelake-server"),
        (14, "sapphirerapids", SAPPHIRE, "sapphirerapids"),
        (10, "generic", SKYLAKE_X, "skylake-avx512"),
        (10, "generic", f"{SKYLAKE_X} avx512_vnni avx512_bf16", "cooperlake"),
        (10, "alderlake", f"{HASWELL} sha_ni vaes vpclmulqdq gfni avx_vnni", "skylake"),
        (10, "generic", HASWELL.replace(" aes", ""), "haswell"),
        (14, "generic", f"{BASE} avx aes pclmulqdq", "sandybridge"),
        (10, "generic", BASE, "nehalem"),
        (10, "generic", "ssse3", "x86-64"),
    ],
)
def test_a_cpu_llvm_does_not_know_keeps_its_vectors(
    version: int, name: str, flags: str, chosen: str
) -> None:
    assert Llvm(version).choose(name, flags) == chosen


@pytest.mark.parametrize("version", [10, 14, 19])
@pytest.mark.parametrize("flags", [BASE, HASWELL, SKYLAKE_X, ICELAKE, SAPPHIRE, ZEN3, ZEN4])
def test_nothing_is_chosen_that_the_machine_cannot_run(version: int, flags: str) -> None:
    llvm, has = Llvm(version), frozenset(flags.split())
    features = llvm.features_of(llvm.choose("generic", flags))
    for wide in ("avx2", "fma", "avx512f", "avx512vl"):  # nor one that leaves vectors unused
        assert (wide in features) == (wide in has)


def test_what_a_virtual_machine_hides_is_not_used() -> None:
    # The model is Sapphire Rapids, and LLVM names it by its model; AVX-512 is masked.
    assert Llvm(19).choose("sapphirerapids", HASWELL) == "skylake"


def test_without_flags_llvm_is_believed() -> None:
    assert Llvm(19).choose("znver4", "") == "znver4"
    assert Llvm(10).choose("znver4", "") == "x86-64"
    assert cpu.choose("", frozenset({"generic"}), frozenset(), Llvm(10).features_of) == "generic"


def test_the_kernels_flags_are_read(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t\t: none\n")
    assert cpu.host_flags(info) == {"fpu", "avx2", "fma"}
    info.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu.host_flags(info) == {"fp", "asimd"}
    info.write_text("processor\t: 0\n")
    assert cpu.host_flags(info) == frozenset()
    assert cpu.host_flags(tmp_path / "none") == frozenset()


def test_an_arm_without_a_feature_of_its_model_is_not_taken_for_it() -> None:
    """As in a virtual machine; the code would end in SIGILL there."""
    model, flags = frozenset({"neon", "fullfp16", "sve", "perfmon"}), "fp asimd asimdhp asimddp"
    assert cpu.lacking(model, frozenset(flags.split())) == ("sve",)
    for kernel, chosen in ((flags, "generic"), (f"{flags} sve", "neoverse-v1")):
        known = frozenset({"generic", "neoverse-v1"})
        assert (
            cpu.choose("neoverse-v1", known, frozenset(kernel.split()), lambda _: model) == chosen
        )


def test_more_registers_are_not_used_where_the_machine_does_not_say_that_it_has_them() -> None:
    """APX, which LLVM's Diamond Rapids has and a virtual machine may hide."""
    apx = ("egpr", "ndd", "nf", "ccmp", "zu", "ppx", "push2pop2")
    features = {"diamondrapids": frozenset({"avx512f", *apx}), "haswell": frozenset({"avx2"})}
    named = "diamondrapids", frozenset(features)
    for flags, lacks, chosen in (
        ({"avx512f", "avx2"}, sorted(apx), "haswell"),
        ({"avx512f", "avx2", "apx"}, [], "diamondrapids"),
    ):
        assert cpu.lacking(features["diamondrapids"], frozenset(flags)) == tuple(lacks)
        assert cpu.choose(*named, frozenset(flags), features.__getitem__) == chosen
