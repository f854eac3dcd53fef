"""The model that a spec asks for: a preset with seeded weights, or a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from bench import checkpoint
from bench.catalog import BertConfig, input_variable
from bench.errors import UsageFault
from bench.job import bert, gpt, weights
from bench.record import JobSpec

Model = gpt.GPT | bert.Bert


def build(spec: JobSpec) -> Model:
    """The model in evaluation mode, float32, on the CPU.

    Raises:
        UsageFault: the checkpoint is not the one that the spec names, or cannot be read.
    """
    geometry = spec.geometry
    if spec.weights is not None:
        directory = weights_directory(spec.weights.sha256)
        if isinstance(geometry, BertConfig):
            return weights.load_bert(directory)
        return weights.load_gpt(directory)
    if isinstance(geometry, BertConfig):
        return bert.build(geometry, spec.seed)
    return gpt.build(geometry, spec.seed)


def weights_directory(sha256: str) -> Path:
    """The checkpoint that the host laid out, after a look at whether it is the one meant.

    Raises:
        UsageFault: it changed since the host looked, or is not there.
    """
    variable = input_variable("weights")
    if variable not in os.environ:
        raise UsageFault(f"no weights: {variable} is not set", hint="start jobs with invoke bench")
    directory = Path(os.environ[variable])
    if checkpoint.digest(directory) != sha256:
        raise UsageFault(
            "the weights changed since the job was asked for",
            hint="let nothing write to the checkpoint while it is used, and start again",
        )
    return directory
