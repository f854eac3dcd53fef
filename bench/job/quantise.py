"""Weights in fewer bits than float32: bfloat16, and int8 with a scale for each output channel.

int8 is symmetric: the weights of a channel are its scale times whole numbers from -127 to 127, the
scale max |w| / 127 of the channel, so that no weight is off by more than half a scale. bfloat16
keeps 8 binary digits: none is off by more than 1/256 of itself. Both round to nearest, and what
lies in the middle to the even one.

NumPy and torch alone: the float64 reference of such weights must not lean on a compiler.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn as nn

_LARGEST = 127  # of an int8; -128 is left out, so that both signs reach equally far


def to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float32 weight (N, K) as int8 (N, K), and the scale of each row, (N,) float32.

    A row with an element that is no finite number gets a scale that is none either, so that its
    products are not finite, as they would not be with the weight itself.
    """
    wide = weight.astype(np.float64)
    # A scale must not vanish in float32, neither for a row of zeros nor for one that nearly is.
    least = float(np.finfo(np.float32).tiny)
    scales = np.maximum(np.abs(wide).max(axis=1, initial=0) / _LARGEST, least).astype(np.float32)
    with np.errstate(invalid="ignore"):
        steps = np.rint(wide / scales.astype(np.float64)[:, None])
    return np.nan_to_num(steps).clip(-_LARGEST, _LARGEST).astype(np.int8), scales


def to_bfloat16(weight: np.ndarray) -> np.ndarray:
    """The 16-bit words, as uint16, of a float32 array rounded to bfloat16."""
    words = torch.from_numpy(np.ascontiguousarray(weight)).bfloat16().view(torch.int16)
    found: np.ndarray = words.numpy().view(np.uint16)
    return found


def rounded(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """What is left of a float32 weight (N, K) once it is stored as ``dtype``, as float64.

    Raises:
        KeyError: ``dtype`` is neither "bfloat16" nor "int8".
    """
    if dtype == "bfloat16":
        return weight.bfloat16().double()
    if dtype != "int8":
        raise KeyError(dtype)
    whole, scales = to_int8(weight.numpy())
    return torch.from_numpy(whole).double() * torch.from_numpy(scales).double()[:, None]


def widened(module: nn.Module, dtype: str | None) -> nn.Module:
    """``module`` itself in float64, its matrices as they are once stored as ``dtype``.

    Those are the weights of every ``nn.Linear``, and the token embedding ``wte``, which is a head
    too. None leaves them what they are.
    """
    for name, part in module.named_modules():
        if dtype is not None and (isinstance(part, nn.Linear) or name == "wte"):
            part.weight.data = rounded(part.weight.data, dtype)
    return module.double()
