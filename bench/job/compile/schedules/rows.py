"""What reduces over the last axis and then works on it again: layer norm and softmax.

One thread takes a row through all its passes while it lies in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.job.compile.api import T, bind, local_buffer, prim_func, tirx
from bench.job.compile.schedules import plain, vectormath
from bench.job.compile.target import CompileTarget


def layer_norm(m: int, n: int, epsilon: float, target: CompileTarget) -> Any:
    """The kernel (x (M, N), weight (N,), bias (N,)) -> (M, N).

    The variance is taken around the mean in a second pass: the difference of two large sums
    would lose digits.
    """

    def body() -> None:
        x = T.arg("x", T.buffer((m, n), "float32"))
        weight = T.arg("weight", T.buffer((n,), "float32"))
        bias = T.arg("bias", T.buffer((n,), "float32"))
        y = T.arg("y", T.buffer((m, n), "float32"))
        with T.parallel(0, m) as row:
            total = _reduce(n, target.lanes, lambda j: x[row, j], _add, 0.0)
            mean = bind(total[0] / T.float32(n))
            squares = _reduce(n, target.lanes, lambda j: _square(x[row, j] - mean), _add, 0.0)
            scale = bind(T.float32(1) / T.sqrt(squares[0] / T.float32(n) + T.float32(epsilon)))

            def put(j: Any) -> None:
                T.buffer_store(y, (x[row, j] - mean) * scale * weight[j] + bias[j], [row, j])

            _each(n, target.lanes, put)

    return plain.noted(
        prim_func(f"layer_norm_{m}x{n}", body), "layer_norm", m=m, n=n, epsilon=epsilon
    )


def softmax(m: int, n: int, target: CompileTarget) -> Any:
    """The kernel x (M, N) -> (M, N), whose rows sum to one."""

    def body() -> None:
        x = T.arg("x", T.buffer((m, n), "float32"))
        y = T.arg("y", T.buffer((m, n), "float32"))
        with T.parallel(0, m) as row:
            most = _reduce(n, target.lanes, lambda j: x[row, j], tirx.max, float("-inf"))
            peak = bind(most[0])

            def put_exp(j: Any) -> None:
                T.buffer_store(y, vectormath.exp(x[row, j] - peak), [row, j])

            _each(n, target.lanes, put_exp)
            total = _reduce(n, target.lanes, lambda j: y[row, j], _add, 0.0)
            scale = bind(T.float32(1) / total[0])

            def put(j: Any) -> None:
                T.buffer_store(y, y[row, j] * scale, [row, j])

            _each(n, target.lanes, put)

    return plain.noted(prim_func(f"softmax_{m}x{n}", body), "softmax", m=m, n=n)


def _reduce(
    n: int,
    lanes: int,
    term: Callable[[Any], Any],
    combine: Callable[[Any, Any], Any],
    neutral: float,
) -> Any:
    """Emit ``combine`` over ``term(j)`` for j < n; a buffer whose first element is the result.

    Each lane of a vector reduces its own share before the lanes are combined.
    """
    parts = local_buffer(lanes)
    with T.vectorized(0, lanes) as j:
        T.buffer_store(parts, tirx.const(neutral, "float32"), [j])
    if n >= lanes:
        with T.serial(0, n // lanes) as block, T.vectorized(0, lanes) as j:
            T.buffer_store(parts, combine(parts[j], term(block * lanes + j)), [j])
    if n % lanes:
        with T.serial(0, n % lanes) as j:
            T.buffer_store(parts, combine(parts[0], term(n // lanes * lanes + j)), [0])
    width = lanes
    while width > 1:
        width //= 2
        with T.vectorized(0, width) as j:
            T.buffer_store(parts, combine(parts[j], parts[width + j]), [j])
    return parts


def _each(n: int, lanes: int, put: Callable[[Any], None]) -> None:
    """Emit ``put(j)`` for j < n, a vector at a time and the tail one by one."""
    if n >= lanes:
        with T.serial(0, n // lanes) as block, T.vectorized(0, lanes) as j:
            put(block * lanes + j)
    if n % lanes:
        with T.serial(0, n % lanes) as j:
            put(n // lanes * lanes + j)


def _add(a: Any, b: Any) -> Any:
    return a + b


def _square(a: Any) -> Any:
    return a * a
