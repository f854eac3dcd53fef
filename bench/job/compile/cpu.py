"""Which of the CPUs that an LLVM knows is nearest to this machine's.

An LLVM is older than the newest CPUs. One that LLVM has never heard of would be taken for the
oldest x86-64, and code for it would be left with a quarter of the vector width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

# What a code generator uses of its own accord, and gains by: LLVM's name, the kernel's.
_FEATURES = {
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sse4a": "sse4a",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "movbe": "movbe",
    "aes": "aes",
    "pclmul": "pclmulqdq",
    "sha": "sha_ni",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "amx-tile": "amx_tile",
    "fma4": "fma4",
    "xop": "xop",
    "tbm": "tbm",
    # APX: registers that any code may use.
    **dict.fromkeys(("egpr", "ndd", "nf", "ccmp", "zu", "ppx", "push2pop2"), "apx"),
    # AArch64; the kernel's names are those of its ELF hwcaps.
    "neon": "asimd",
    "crc": "crc32",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "sve": "sve",
    "sve2": "sve2",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
# CPUs to stand in for one that is not known. Of those with as many features the first is taken.
_STAND_INS = (
    *("sapphirerapids", "znver4", "icelake-server", "cooperlake", "cascadelake", "skylake-avx512"),
    *("znver3", "znver2", "skylake", "haswell", "sandybridge", "nehalem"),
)


def host_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the kernel says this CPU can do, x86 or AArch64; empty where it does not say."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):  # x86's word, and Arm's
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def choose(
    name: str,
    known: frozenset[str],
    flags: frozenset[str],
    features_of: Callable[[str], frozenset[str]],
) -> str:
    """The CPU to generate code for.

    Args:
        name: what LLVM calls this machine's CPU; "generic" or "" where it cannot tell.
        known: the CPUs that LLVM generates code for.
        flags: what the kernel says that this CPU can do.
        features_of: what LLVM takes one of ``known`` to be able to do.

    Returns:
        ``name`` if LLVM knows it and the machine has all that it stands for (a virtual machine
        may hide some), else the CPU with the most of this machine's features and none beyond
        them, else the oldest that any machine of this architecture is as good as.
    """
    named = name in known and name not in ("generic", "x86-64")
    if named and (not flags or _used(features_of(name)) <= flags):
        return name
    best, most = "x86-64" if "x86-64" in known else "generic", 0
    for candidate in (one for one in _STAND_INS if flags and one in known):
        used = _used(features_of(candidate))
        if used <= flags and len(used) > most:
            best, most = candidate, len(used)
    return best


def lacking(features: frozenset[str], flags: frozenset[str]) -> tuple[str, ...]:
    """Which of a CPU's features, by LLVM's names, this machine lacks; sorted.

    Args:
        features: what LLVM takes the CPU that code is for to be able to do.
        flags: what the kernel says that this machine can do; where it says nothing, all is taken
            to be there.
    """
    if not flags:
        return ()
    return tuple(
        sorted(one for one in features if one in _FEATURES and _FEATURES[one] not in flags)
    )


def _used(features: frozenset[str]) -> frozenset[str]:
    """LLVM's features as the kernel calls them, less those that do not matter here."""
    return frozenset(_FEATURES[feature] for feature in features if feature in _FEATURES)
