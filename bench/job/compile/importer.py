"""A PyTorch module to Relax, with the parameters kept as arguments."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.errors import UsageFault
from bench.job.compile import api


@dataclass(frozen=True)
class Imported:
    """A Relax module and what its ``main`` takes after the inputs, in that order."""

    mod: Any  # tvm.IRModule
    params: list[np.ndarray]


def import_module(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Imported:
    """``module`` as Relax for the shapes of ``example``; a tied weight is one parameter.

    Raises:
        UsageFault: a parameter or buffer is floating point but not float32, or TVM's importer
            has no rule for an operator.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UsageFault(
                f"cannot compile: '{name}' is {tensor.dtype}, not torch.float32",
                hint="use --dtype float32",
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.export's own
        exported = torch.export.export(module, example)
        try:
            mod, params = api.import_exported(exported)
        except AssertionError as error:  # how every version says so
            raise UsageFault(
                f"TVM cannot import the model: {error}",
                hint="write the model with other operators of PyTorch",
            ) from error
    return Imported(mod, [param.numpy() for param in params])
