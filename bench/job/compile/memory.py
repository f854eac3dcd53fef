"""Where a model's weights lie on a CPU: one after the other, in a block of huge pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.job.compile import api

_LINE = 64  # bytes: of a cache line, and what TVM's kernels take every tensor to be aligned to
_HUGE_PAGE = 2**21


def block(arrays: Sequence[np.ndarray]) -> list[Any]:
    """Copies of ``arrays`` as tensors of TVM's on the CPU.

    A step of decoding reads every weight once, and in pages of 4 KiB the processor looks up an
    address for each of them. Linux gives large ones where it is asked to (``madvise``), which NumPy
    does for an array of 4 MiB or more: so it is one array. Where there are none nothing is lost.
    """
    sizes = [-(-array.nbytes // _LINE) * _LINE for array in arrays]
    whole = np.empty(sum(sizes) + _HUGE_PAGE, np.uint8)
    at = -whole.ctypes.data % _HUGE_PAGE
    made = []
    for array, size in zip(arrays, sizes, strict=True):
        if array.nbytes and array.dtype.kind in "fiu":
            place = whole[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            place[...] = array
            made.append(api.tvm.runtime.from_dlpack(place))  # keeps the block alive
        else:  # NumPy hands nothing else on
            made.append(api.tensor(array, api.device("cpu")))
        at += size
    return made
