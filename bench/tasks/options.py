"""The words that explain an option wherever it is taken."""

from __future__ import annotations

JOB = {
    "engine": "auto (default), docker or local; auto takes docker where an engine answers",
    "profile": "the image's profile in docker/pins.toml (default: cpu; cuda-wheels for a GPU)",
    "base": "the image stands on this base, as in build-image --base",
    "image": "run in this very image that build-image made (a tag or an id)",
    "model": "gpt-nano, gpt2 (default), gpt2-medium, gpt2-large, gpt2-xl or bert-base",
    "layers": "how many of the model's layers (default: its own number); with seeded weights",
    "weights": "a checkpoint instead of seeded weights: a directory, a run, or hf:gpt2",
    "mode": "prefill (default): all positions in one call; decode: a token a call, with a KV "
    "cache, from a context of --seq-len; encode: what BERT does",
    "batch-size": "sequences in one call (default: 1)",
    "seq-len": "tokens in each sequence (default: 64)",
    "dtype": "float32 (default), float16 (PyTorch; TVM on a GPU) or bfloat16 (PyTorch)",
    "threads": "cores to use (default: all the job sees)",
    "seed": "of weights and inputs (default: 0)",
    "timeout": "seconds after which the job is stopped (default: 3600)",
    "limits": "what the job may take: memory=8g,pids=4096,cpus=2,disk=20g,file=20g,tmp=4g, any of "
    "them (docs/container.md)",
    "out": "where runs are kept (default: results)",
}

GPU = "run on the GPU, in a CUDA profile; never falls back to a CPU or to local"

MCPU = "the CPU that TVM compiles for, as LLVM names it: haswell (default: this machine's)"

PIN = "run on these cores alone, as 0-3,6; `lscpu -e` tells which share one (default: any)"
