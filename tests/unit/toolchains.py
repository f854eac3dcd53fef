"""Toolchains of the project's profiles, as the tests of the solver need them."""

from __future__ import annotations

from dataclasses import replace

from bench.host import toolchain
from bench.host.toolchain import describe

TABLES = toolchain.load_tables()
DIGEST = "@sha256:" + "a" * 64
LLVM10 = describe(
    tvm="0.23.0",
    llvm="10.0.0",
    cmake="3.31.6",
    cuda="12.4.1",
    cuda_arch=["80", "86", "90"],
    base=f"nvidia/cuda:12.4.1-devel-ubuntu22.04{DIGEST}",
    torch="2.13.0",
    torch_cuda="13.0",
)
LATEST = describe(
    tvm="0.26.0",
    llvm="apt:19",
    cmake="3.31.6",
    cuda_arch=["80", "86", "90"],
    base=f"nvidia/cuda:13.0.2-devel-ubuntu24.04{DIGEST}",
    torch="2.13.0",
    torch_cuda="13.0",
)
CPU_SOURCE = describe(
    tvm="0.23.0",
    llvm="apt:14",
    cmake="3.31.6",
    base=f"debian:bookworm-slim{DIGEST}",
    torch="2.13.0",
)
CPU = describe(
    tvm="wheel",
    tvm_version="0.27.0.post1",
    base=f"debian:bookworm-slim{DIGEST}",
    torch="2.13.0",
)
PROFILES = {
    "llvm10": LLVM10,
    "latest": LATEST,
    "cpu-source": CPU_SOURCE,
    "cpu": CPU,
    "cuda-wheels": replace(CPU, torch_cuda="13.0"),
}
CUDA_118 = "CUDA 11.8 (cuda and base in the profile)"
CPU_TORCH = 'torch\'s CPU build (torch = "cpu" in the profile)'
