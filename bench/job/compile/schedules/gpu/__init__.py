"""Kernels for NVIDIA GPUs, as TensorIR with explicit threads, for what dlight has no rule for."""
