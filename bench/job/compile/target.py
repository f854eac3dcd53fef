"""The machine that code is generated for, said exactly enough to be part of a cache key."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import UsageFault
from bench.job.compile import cpu
from bench.limits import available_cores

# Compute capabilities of NVIDIA GPUs from Pascal to Blackwell. A suffix "a" selects
# what only this one architecture has.
_SM = ("60", "61", "62", "70", "72", "75", "80", "86", "87", "89", "90", "90a")
_SM_BLACKWELL = ("100", "100a", "101", "101a", "103", "103a", "110", "110a", "120", "120a", "121")
CUDA_ARCHS = tuple(f"sm_{number}" for number in (*_SM, *_SM_BLACKWELL))

_VECTOR_FEATURES = ("avx512f", "avx2", "fma", "sse4.2")


@dataclass(frozen=True)
class CompileTarget:
    """What code is generated for.

    ``mcpu`` is the CPU as LLVM names it (the host's CPU for a CUDA target), ``features`` its
    vector extensions, ``cores`` the threads that the code is planned for, ``arch`` the GPU's
    compute capability ("sm_90") or None.
    """

    kind: str
    mcpu: str
    features: tuple[str, ...]
    cores: int
    arch: str | None = None

    @property
    def lanes(self) -> int:
        """How many float32 fit in a vector register of the CPU."""
        if "avx512f" in self.features:
            return 16
        return 8 if "avx2" in self.features else 4

    @property
    def registers(self) -> int:
        """How many vector registers the CPU has."""
        return 32 if "avx512f" in self.features else 16

    def to_dict(self) -> dict[str, object]:
        """The same, as JSON holds it."""
        return {**asdict(self), "features": list(self.features)}

    def tvm(self) -> Any:
        """The same as a ``tvm.target.Target``."""
        from bench.job.compile import api

        host = {"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.cores}
        if self.kind == "cuda":
            return api.make_target({"kind": "cuda", "arch": self.arch, "host": host})
        return api.make_target({"keys": ["cpu"], **host})


def detect_cpu(cores: int | None = None, mcpu: str | None = None) -> CompileTarget:
    """This machine's CPU, as the LLVM inside TVM knows it, or the one that is named.

    Args:
        cores: threads to plan for; by default the cores this process may use.
        mcpu: the CPU to generate code for, by LLVM's name for it; by default this machine's.

    Raises:
        UsageFault: ``cores`` is below one, or LLVM knows no such CPU.
    """
    from bench.job.compile import api

    if cores is not None and cores < 1:
        raise UsageFault(f"cores must be at least 1, not {cores}", hint="leave it out to detect")
    if mcpu is None:
        mcpu = nearest_cpu()
    elif mcpu not in api.known_cpus():
        close = difflib.get_close_matches(mcpu, sorted(api.known_cpus()), n=3, cutoff=0.5)
        raise UsageFault(
            f"the LLVM inside TVM {api.VERSION} knows no CPU '{mcpu}'",
            hint=f"--mcpu {' or '.join(close or [nearest_cpu()])}; left out, it is found out",
        )
    has = api.cpu_features(mcpu)
    features = tuple(feature for feature in _VECTOR_FEATURES if feature in has)
    return CompileTarget("llvm", mcpu, features, cores or available_cores())


def nearest_cpu() -> str:
    """This machine's CPU, or the nearest that the LLVM inside TVM knows."""
    from bench.job.compile import api

    return cpu.choose(api.host_cpu(), api.known_cpus(), cpu.host_flags(), api.cpu_features)


def require_here(mcpu: str) -> None:
    """Refuse code for the CPU ``mcpu`` where this machine would die of it (SIGILL).

    Raises:
        UsageFault: this machine lacks what the code may use; the message names it.
    """
    from bench.job.compile import api

    if mcpu not in api.known_cpus():
        raise UsageFault(
            f"the code is for the CPU '{mcpu}', which the LLVM inside TVM {api.VERSION} does not "
            "know: what it needs cannot be told",
            hint="compile anew, with --mcpu left out",
        )
    lacks = cpu.lacking(api.cpu_features(mcpu), cpu.host_flags())
    if lacks:
        raise UsageFault(
            f"the code is for {mcpu}, and this CPU lacks {', '.join(lacks)}",
            hint=f"compile anew for this CPU: leave --mcpu out, or --mcpu {nearest_cpu()}",
        )


def cuda(arch: str, mcpu: str | None = None) -> CompileTarget:
    """A GPU of compute capability ``arch``, with this machine's CPU, or ``mcpu``, as its host.

    Raises:
        UsageFault: there is no such architecture, or no such CPU.
    """
    if arch not in CUDA_ARCHS:
        raise UsageFault(
            f"unknown GPU architecture '{arch}'", hint=f"choose one of: {', '.join(CUDA_ARCHS)}"
        )
    host = detect_cpu(mcpu=mcpu)
    return CompileTarget("cuda", host.mcpu, host.features, host.cores, arch)
