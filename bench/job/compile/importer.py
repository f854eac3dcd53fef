"""A PyTorch module to Relax, with the parameters kept as arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.errors import UsageFault
from bench.job.compile import api, check, layers


@dataclass(frozen=True)
class Imported:
    """A Relax module and what its ``main`` takes after the inputs, in that order.

    ``params`` lie in the memory of the module's own parameters: they are read, never written.
    """

    mod: Any  # tvm.IRModule
    params: list[np.ndarray]


def import_module(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    floats: Sequence[str] = ("float32",),
) -> Imported:
    """``module`` as Relax for the shapes of ``example``; a tied weight is one parameter.

    Raises:
        UsageFault: a parameter or buffer is floating point and none of ``floats``, two inputs are
            one tensor, or TVM's importer has no rule, or a wrong one, for an operator.
    """
    check.require_distinct(example)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and dtype not in floats:
            raise UsageFault(
                f"cannot compile: '{name}' is {dtype}, not {' or '.join(floats)}",
                hint=f"use --dtype {floats[0]}",
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.export's own
        # Decomposed here, so that what is checked is what is imported.
        exported = layers.export(module, example)
        check.check(exported, example)
        try:
            mod, params = api.import_exported(exported)
        except Exception as error:  # it raises whatever its rules run into
            raise check.failure(error) from error
    return Imported(mod, [np.from_dlpack(param) for param in params])
