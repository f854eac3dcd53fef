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


@dataclass(frozen=True)
class BertConfig:
    """The geometry of a BERT. ``block_size`` is the longest sequence, in tokens."""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int = 512
    vocab_size: int = 30522
    type_vocab_size: int = 2


Geometry = GPTConfig | BertConfig

# gpt2 … gpt2-xl: the published geometry (GPT-2 paper, table 2). gpt-nano: minGPT's smallest.
# bert-base: BERT paper, section 3, with the vocabulary of bert-base-uncased.
MODELS: dict[str, Geometry] = {
    "gpt-nano": GPTConfig(n_layer=3, n_head=3, n_embd=48),
    "gpt2": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
    "bert-base": BertConfig(n_layer=12, n_head=12, n_embd=768),
}

# Name -> where the job finds it. The order is the order of the table.
BACKENDS: dict[str, str] = {
    "torch-eager": "bench.job.backends.torch_eager:TORCH_EAGER",
    "torch-compile": "bench.job.backends.torch_compile:TORCH_COMPILE",
    "onnxruntime": "bench.job.backends.onnxruntime:ONNXRUNTIME",
    "tvm-none": "bench.job.backends.tvm:TVM_NONE",
    "tvm-default": "bench.job.backends.tvm:TVM_DEFAULT",
    "tvm-optimized": "bench.job.backends.tvm:TVM_OPTIMIZED",
}

BEFORE = "tvm-none"
AFTER = "tvm-optimized"

# What lies between them, a rung each: known by name, and run where they are asked for.
RUNGS: dict[str, str] = {
    "tvm-ladder-fused": "bench.job.backends.tvm:TVM_LADDER_FUSED",
    "tvm-ladder-dlight": "bench.job.backends.tvm:TVM_LADDER_DLIGHT",
    "tvm-ladder-kernels": "bench.job.backends.tvm:TVM_LADDER_KERNELS",
    "tvm-ladder-packed": "bench.job.backends.tvm:TVM_LADDER_PACKED",
    "tvm-ladder-epilogues": "bench.job.backends.tvm:TVM_LADDER_EPILOGUES",
}
# AFTER with what a search found: known by name, since it needs `invoke tune` first.
TUNED: dict[str, str] = {"tvm-tuned": "bench.job.backends.tvm:TVM_TUNED"}
# On a GPU the first two are the same, and then others follow.
GPU_RUNGS: dict[str, str] = {
    "tvm-ladder-weights": "bench.job.backends.tvm:TVM_LADDER_WEIGHTS",
    "tvm-ladder-attention": "bench.job.backends.tvm:TVM_LADDER_ATTENTION",
    "tvm-ladder-cublas": "bench.job.backends.tvm:TVM_LADDER_CUBLAS",
}
GPU_LADDER = (BEFORE, *list(RUNGS)[:2], *GPU_RUNGS, AFTER)
# AFTER on a CPU with its weights stored in fewer bits: not the same weights, so that the table has
# them only if they are asked for.
WEIGHT_ONLY: dict[str, str] = {
    "tvm-bf16": "bench.job.backends.tvm:TVM_BF16",
    "tvm-int8": "bench.job.backends.tvm:TVM_INT8",
}
WEIGHT_DTYPES = {"tvm-bf16": "bfloat16", "tvm-int8": "int8"}
LADDER = (BEFORE, *RUNGS, AFTER, *TUNED, *WEIGHT_ONLY)
CHOICES = (*BACKENDS, *WEIGHT_ONLY)  # what a user is told to choose from
KNOWN_BACKENDS = {**BACKENDS, **RUNGS, **GPU_RUNGS, **TUNED, **WEIGHT_ONLY}
# What TVM is held against, each in its best configuration: docs/modes.md.
PEERS = ("torch-eager", "torch-compile", "onnxruntime")

# What is measured, and of which kind of model.
MODES: dict[str, type[Geometry]] = {
    "prefill": GPTConfig,  # the logits of all positions of a prompt in one call
    "decode": GPTConfig,  # one token a call, with a KV cache
    "encode": BertConfig,  # the logits of all positions of a text, each of which sees all
}
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")

# How often each backend is called before it is timed. A wrong import can give different garbage
# each time (an out-of-bounds read does), so that one call may pass by luck.
GATED_CALLS = 3

# Decoding is measured from the context asked for over so many tokens, then from there again.
DECODE_STEPS = 16
GATED_STEPS = 4  # and gated on so many, after its prompt

# Where host and job find each other's files: beside the spec, and the store of artefacts.
SPEC_FILE = "spec.json"
OUTCOME_FILE = "outcome.json"
SCRATCH_DIR = "scratch"
STORE_VARIABLE = "GPT_FRONTEND_STORE"


def input_variable(name: str) -> str:
    """The environment variable that tells a job where its input ``name`` lies, read-only."""
    return f"GPT_FRONTEND_IN_{name.upper()}"
