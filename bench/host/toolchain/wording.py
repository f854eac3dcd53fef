"""A change of toolchain as a sentence's part, with the option or the pin that makes it."""

from __future__ import annotations

from bench.host.toolchain.rules import Toolchain
from bench.host.toolchain.tables import older


def changes(old: Toolchain, new: Toolchain) -> str:
    """What differs, in words: ``TVM v0.23.0 (--tvm-ref v0.23.0)``; joined by "and"."""
    said = []
    if new.tvm != old.tvm:
        said.append(_tvm(new))
    if new.llvm != old.llvm:
        said.append(f"LLVM {new.llvm}" + (f" (--llvm apt:{new.llvm})" if new.llvm_packaged else ""))
    if new.cmake != old.cmake and new.cmake is not None:
        said.append(
            "cmake<4" if old.cmake and older(new.cmake, old.cmake) else f"cmake>={new.cmake}"
        )
    if new.cuda != old.cuda:
        said.append(f"CUDA {new.cuda} (cuda and base in the profile)")
    if new.cuda_arch != old.cuda_arch:
        said.append(f"--cuda-arch {','.join(new.cuda_arch)}")
    if new.distribution != old.distribution:
        said.append(f"a base of {new.distribution} (base in the profile)")
    else:
        if new.gcc != old.gcc:
            said.append(f"gcc {new.gcc}")
        if new.python != old.python:
            said.append(f"Python {new.python}")
    if new.torch != old.torch:
        said.append(
            f"torch {new.torch}" + (f" with CUDA {new.torch_cuda}" if new.torch_cuda else "")
        )
    elif new.torch_cuda != old.torch_cuda:
        said.append('torch\'s CPU build (torch = "cpu" in the profile)')
    if new.driver != old.driver:
        said.append(f"driver {new.driver} or newer")
    return " and ".join(said)


def _tvm(new: Toolchain) -> str:
    if new.tvm_wheel:
        return f"TVM {new.tvm}'s wheel (tvm in [versions])"
    return f"TVM v{new.tvm} (--tvm-ref v{new.tvm})"
