"""The names that the host and the job must agree on: models, backends, modes, dtypes, files.

Pure data, so that the host can refuse a bad request without torch or tvm. Adding a model or a
backend is one line here and, for a backend, one new file in ``bench/job/backends``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """The geometry of a GPT. ``block_size`` is the longest sequence, in tokens."""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int = 1024
    vocab_size: int = 50257


# gpt2 … gpt2-xl: the published geometry (GPT-2 paper, table 2). gpt-nano: minGPT's smallest.
MODELS: dict[str, GPTConfig] = {
    "gpt-nano": GPTConfig(n_layer=3, n_head=3, n_embd=48),
    "gpt2": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
}

# Name -> where the job finds it. The order is the order of the table.
BACKENDS: dict[str, str] = {
    "torch-eager": "bench.job.backends.torch_eager:TORCH_EAGER",
    "torch-compile": "bench.job.backends.torch_compile:TORCH_COMPILE",
    "tvm-none": "bench.job.backends.tvm:TVM_NONE",
    "tvm-default": "bench.job.backends.tvm:TVM_DEFAULT",
    "tvm-optimized": "bench.job.backends.tvm:TVM_OPTIMIZED",
}

BEFORE = "tvm-none"
AFTER = "tvm-optimized"

MODES = ("prefill",)
DTYPES = ("float32",)

# How often each backend is called before it is timed. A wrong import can give different garbage
# each time (an out-of-bounds read does), so that one call may pass by luck.
GATED_CALLS = 3

# Where host and job find each other's files: beside the spec, and the store of artefacts.
SPEC_FILE = "spec.json"
OUTCOME_FILE = "outcome.json"
SCRATCH_DIR = "scratch"
STORE_VARIABLE = "GPT_FRONTEND_STORE"
