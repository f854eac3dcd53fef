"""What the threads of one block do together: take turns over elements, and reduce."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from bench.job.compile.api import T, tirx
from bench.job.compile.names import scoped_buffer

# Least finite float32 that still has a finite difference to any score: where there is nothing
# to look at, exp(_LOWEST - peak) is 0 and never NaN, as it would be with -inf twice.
LOWEST = -1e38


@contextlib.contextmanager
def launch(blocks: int, threads: int) -> Iterator[tuple[Any, Any]]:
    """The grid and its blocks, one-dimensional both: (block index, thread index)."""
    with (
        T.launch_thread("blockIdx.x", blocks) as block,
        T.launch_thread("threadIdx.x", threads) as thread,
    ):
        yield block, thread


def shared(size: int) -> Any:
    """Emit ``size`` float32 that the threads of a block share."""
    return scoped_buffer(size, "shared")


def registers(size: int) -> Any:
    """Emit ``size`` float32 of a thread's own."""
    return scoped_buffer(size, "local")


def barrier() -> None:
    """Emit: no thread goes on before all have come here and see what the others wrote."""
    T.evaluate(T.tvm_storage_sync("shared"))


def in_turns(thread: Any, threads: int, count: int, put: Callable[[Any], None]) -> None:
    """Emit ``put(index)`` for every index below ``count``, neighbours by neighbouring threads."""
    whole, left = divmod(count, threads)
    if whole:
        with T.serial(0, whole) as turn:
            put(turn * threads + thread)
    if left:
        with T.If(thread < left), T.Then():
            put(whole * threads + thread)


def combine(parts: Any, thread: Any, threads: int, function: Callable[[Any, Any], Any]) -> None:
    """Emit ``function`` over the ``threads`` elements of a shared buffer; the first is the result.

    ``threads`` is a power of two. Begins and ends with a barrier.
    """
    barrier()
    width = threads
    while width > 1:
        width //= 2
        with T.If(thread < width), T.Then():
            T.buffer_store(parts, function(parts[thread], parts[thread + width]), [thread])
        barrier()


def f32(value: Any) -> Any:
    """An expression in the type that everything is summed in."""
    if isinstance(value, int | float):
        return tirx.const(value, "float32")
    return tirx.Cast("float32", value)  # of a float32 it is no instruction


def as_type(dtype: str, value: Any) -> Any:
    """A float32 expression in the type that it is stored in."""
    return value if dtype == "float32" else tirx.Cast(dtype, value)
