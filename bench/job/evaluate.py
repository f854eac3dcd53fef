"""The loss of a checkpoint on a text, as one backend computes it: the same blocks for each."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.account import Evaluation
from bench.catalog import input_variable
from bench.errors import JobFailed, UsageFault
from bench.generation import EvaluateSpec
from bench.job import backends, driver, generate, models, progress, text, tokenizer, weights
from bench.job.backends.base import Program
from bench.job.blocks import Blocks

FORWARD = "forward"
BATCH = 8
_MOST_LOSS = math.log(sys.float_info.max)  # a larger one has no finite perplexity


def run(backend: str, spec: EvaluateSpec) -> Evaluation:
    """The mean cross-entropy of every whole block of the split, one after the other.

    Raises:
        UsageFault: the text is not the one named, has characters that the model does not know, or
            is too short for one block.
        JobFailed: the loss is not finite, or too large for a perplexity.
    """
    if backend.startswith("tvm"):
        driver.ensure()  # before anything imports tvm
    directory = models.weights_directory(spec.weights.sha256)
    words = tokenizer.load(directory)
    model = weights.load_gpt(directory)
    source = Path(os.environ[input_variable("text")])
    tokens = np.asarray(words.encode(_checked(source, spec.text_sha256)))
    split = Blocks.of(tokens, spec.geometry.block_size)
    pairs = list(itertools.islice(split.whole("val", BATCH), spec.batches))
    example = torch.zeros(BATCH, spec.geometry.block_size, dtype=torch.int64)
    prepared = backends.load(backend).prepare(
        generate.job_spec(spec, backend), {FORWARD: Program(model, (example,))}
    )
    ready = prepared.ready
    total, count = 0.0, 0
    for done, (inputs, targets) in enumerate(pairs):
        progress.report(done, len(pairs), f"{backend}: {count} tokens")
        # The last batch may be a smaller one; the shapes are compiled in.
        filled = F.pad(inputs, (0, 0, 0, BATCH - len(inputs)))
        logits = ready.view(ready.run(FORWARD, ready.stage(filled))[0]).to("cpu", torch.float64)
        losses = F.cross_entropy(logits[: len(inputs)].flatten(0, 1), targets.flatten())
        total += float(losses) * targets.numel()
        count += targets.numel()
    loss = total / count
    if not loss < _MOST_LOSS:  # NaN too
        raise JobFailed(
            f"the loss is {loss:g} nats a token, which has no finite perplexity",
            hint="see whether every backend says so: invoke bench --weights with the same "
            "checkpoint; where all do, its weights are too large for float32",
        )
    return Evaluation(
        backend=backend,
        split="validation",
        tokens=count,
        loss=loss,
        perplexity=math.exp(loss),
        text_sha256=spec.text_sha256,
    )


def _checked(path: Path, sha256: str) -> str:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageFault(f"{path} is not the text that was asked for", hint="start the job again")
    return text.decoded(content)
