"""A hand-written kernel and a tuned one on the same inputs, in turns: agreement, then time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.job.compile import api, names

ROUNDS = 7
_SAMPLE_S = 0.01
# Tuned kernels add in another order; a wrong one is off by as much as the values are.
_TOLERANCE = 1e-3

Call = Callable[[], Any]


class Bench:
    """A kernel's arguments, made once for all that compute the same."""

    def __init__(self, kernel: Any) -> None:
        self._where = api.device("cpu")
        rng = np.random.default_rng(0)
        self._inputs: list[Any] = []
        for buffer in names.buffers(kernel):
            shape = tuple(int(extent) for extent in buffer.shape)
            dtype = str(buffer.dtype)
            if dtype == "float32":
                array = rng.standard_normal(shape, dtype=np.float32)
            else:  # an index, and 0 is within any tensor
                array = np.zeros(shape, np.dtype(dtype))
            self._inputs.append(api.tensor(array, self._where))

    def call(self, kernel: Any, target: Any) -> Call:
        """``kernel`` compiled, on these arguments: called as the virtual machine calls it."""
        compiled = api.compile_kernel(kernel, target)
        return lambda: compiled(*self._inputs)

    def output(self, call: Call) -> np.ndarray:
        """What ``call`` writes into the last argument."""
        # What a kernel leaves out must not pass for what the one before it wrote there.
        before = np.zeros_like(self._inputs[-1].numpy())
        before.fill(np.nan if before.dtype.kind == "f" else -1)
        self._inputs[-1] = api.tensor(before, self._where)
        call()
        found: np.ndarray = self._inputs[-1].numpy()
        return np.array(found)


def agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two results are the same but for the order of sums."""
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    most = float(np.max(np.abs(one), initial=0.0))
    return bool(np.max(np.abs(one - other), initial=0.0) <= _TOLERANCE * max(most, 1e-6))


def in_turns(*calls: Call) -> list[float]:
    """Each call's time in milliseconds: the median over rounds in which all take a turn."""
    counts = [_often(call) for call in calls]
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, count, times in zip(calls, counts, taken, strict=True):
            times.append(_time(call, count))
    return [statistics.median(times) * 1e3 for times in taken]


def _often(call: Call) -> int:
    """How often to call for a sample that the clock can tell."""
    call()
    return max(1, int(_SAMPLE_S / max(_time(call, 1), 1e-7)))


def _time(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
