"""A constant weight as a kernel reads it: panels of outputs, in the type that they are stored in.

Layout of a packed weight (N, K): panels of ``width`` outputs, (ceil(N / width), K, width), the
last filled up with zeros. A panel is read once, front to back, while the tile of the product
stays in registers (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
2008).

A weight may be stored in fewer bits than its float32 (``bench.job.quantise``): bfloat16, as 16-bit
words; or int8, with a float32 scale for each output. What is read is widened in registers, and the
sums are float32 as ever: fewer bytes come from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.job import quantise
from bench.job.compile.api import tirx
from bench.job.compile.schedules.tile import ceil_div


@dataclass(frozen=True)
class Format:
    """A type that weights are stored in.

    ``name`` is the type's, ``dtype`` that of the elements in memory, ``scaled`` whether a scale
    (N,) comes with them. ``widen`` makes float32 of an element, in a kernel; ``narrow`` makes of a
    weight (N, K) what is stored of it, and its scales or None.
    """

    name: str
    dtype: str
    scaled: bool
    widen: Callable[[Any], Any]
    narrow: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]

    @property
    def size(self) -> int:
        """The bytes of an element."""
        return int(np.dtype(self.dtype).itemsize)

    def stored(self, weight: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A float32 weight (N, K) as panels ``width`` wide, and its scales (N,) if it has any."""
        narrow, scales = self.narrow(weight)
        return pack(narrow, width), scales


def packed_shape(n: int, k: int, width: int) -> tuple[int, int, int]:
    """The shape of a packed (n, k) weight: panels, K, panel width."""
    return ceil_div(n, width), k, width


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """A weight (N, K) as panels (ceil(N / width), K, width)."""
    n, k = weight.shape
    full = n // width
    # Each element is read and written once: fresh memory is dear, and a model is large.
    packed = np.empty(packed_shape(n, k, width), weight.dtype)
    packed[:full] = weight[: full * width].reshape(full, width, k).transpose(0, 2, 1)
    packed[full:, :, : n % width] = weight[full * width :].T
    packed[full:, :, n % width :] = 0
    return packed


def _from_bfloat16(word: Any) -> Any:
    """bfloat16 is the upper half of a float32."""
    return tirx.reinterpret("float32", tirx.Cast("uint32", word) << tirx.const(16, "uint32"))


def _from_int8(element: Any) -> Any:
    # By way of int32, which is what vectors of every width have instructions for.
    return tirx.Cast("float32", tirx.Cast("int32", element))


FLOAT32 = Format("float32", "float32", False, lambda w: w, lambda w: (w, None))
BFLOAT16 = Format(
    "bfloat16", "uint16", False, _from_bfloat16, lambda w: (quantise.to_bfloat16(w), None)
)
INT8 = Format("int8", "int8", True, _from_int8, quantise.to_int8)

FORMATS: dict[str, Format] = {one.name: one for one in (FLOAT32, BFLOAT16, INT8)}
