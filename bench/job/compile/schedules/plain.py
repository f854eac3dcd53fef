"""What a kernel computes, as loops that nobody has scheduled: where a search begins.

A plain definition takes the arguments of the kernel in the same order and of the same shapes,
packed weights too. So it can stand in for the kernel, and be measured against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bench.job.compile.names import te, tirx
from bench.job.compile.schedules import vectormath
from bench.job.compile.schedules.tile import ceil_div

# On a kernel: which definition of this module says the same, with its arguments, as JSON.
PLAIN_ATTR = "bench.plain"


def noted(kernel: Any, definition: str, **arguments: object) -> Any:
    """``kernel`` with a note of its plain definition: the name of one below, and its arguments."""
    return kernel.with_attr(PLAIN_ATTR, json.dumps([definition, arguments]))


def of(kernel: Any) -> Any:
    """The plain definition of ``kernel``; None where it has none."""
    note = (kernel.attrs or {}).get(PLAIN_ATTR)
    if note is None:
        return None
    definition, arguments = json.loads(str(note))
    return _DEFINITIONS[definition](**arguments)


def linear(
    m: int,
    n: int,
    k: int,
    width: int,
    bias: bool,
    activation: str | None,
    residual: bool,
) -> Any:
    """(x (M, K), packed W[, b (N,)][, r (M, N)]) -> r + activation(x @ W.T + b), (M, N)."""
    x = te.placeholder((m, k), "float32", name="x")
    w = te.placeholder((ceil_div(n, width), k, width), "float32", name="w")
    p = te.reduce_axis((0, k), name="p")
    if n % width == 0:
        product = te.compute(
            (m, n),
            lambda i, j: te.sum(x[i, p] * w[j // width, p, j % width], axis=[p]),
            name="product",
        )
        at = product
    else:  # an N of few divisors has few tiles: the product is searched for with the padding
        panels = te.compute(
            (m, ceil_div(n, width), width),
            lambda i, panel, j: te.sum(x[i, p] * w[panel, p, j], axis=[p]),
            name="product",
        )

        def at(i: Any, j: Any) -> Any:
            return panels[i, j // width, j % width]

    b = te.placeholder((n,), "float32", name="b") if bias else None
    r = te.placeholder((m, n), "float32", name="r") if residual else None
    inputs = [one for one in (x, w, b, r) if one is not None]
    if len(inputs) == 2 and activation is None and n % width == 0:
        return te.create_prim_func([*inputs, product])

    act: Callable[[Any], Any] | None = getattr(vectormath, activation) if activation else None

    def put(i: Any, j: Any) -> Any:
        value = at(i, j) if b is None else at(i, j) + b[j]
        value = act(value) if act else value
        return value if r is None else value + r[i, j]

    return te.create_prim_func([*inputs, te.compute((m, n), put, name="y")])


def matmul(g: int, m: int, k: int, n: int) -> Any:
    """(a (G, M, K), b (G, K, N)) -> (G, M, N)."""
    a = te.placeholder((g, m, k), "float32", name="a")
    b = te.placeholder((g, k, n), "float32", name="b")
    p = te.reduce_axis((0, k), name="p")
    c = te.compute((g, m, n), lambda h, i, j: te.sum(a[h, i, p] * b[h, p, j], axis=[p]), name="c")
    return te.create_prim_func([a, b, c])


def layer_norm(m: int, n: int, epsilon: float) -> Any:
    """(x (M, N), weight (N,), bias (N,)) -> (M, N), the variance taken around the mean."""
    x = te.placeholder((m, n), "float32", name="x")
    weight = te.placeholder((n,), "float32", name="weight")
    bias = te.placeholder((n,), "float32", name="bias")
    j, q = te.reduce_axis((0, n), name="j"), te.reduce_axis((0, n), name="q")
    total = te.compute((m,), lambda i: te.sum(x[i, j], axis=[j]), name="total")
    size = tirx.const(float(n), "float32")

    def square(i: Any, at: Any) -> Any:
        off = x[i, at] - total[i] / size
        return off * off

    squares = te.compute((m,), lambda i: te.sum(square(i, q), axis=[q]), name="squares")
    eps = tirx.const(epsilon, "float32")
    y = te.compute(
        (m, n),
        lambda i, at: (
            (x[i, at] - total[i] / size) * tirx.rsqrt(squares[i] / size + eps) * weight[at]
            + bias[at]
        ),
        name="y",
    )
    return te.create_prim_func([x, weight, bias, y])


def softmax(m: int, n: int) -> Any:
    """x (M, N) -> (M, N), whose rows sum to one."""
    x = te.placeholder((m, n), "float32", name="x")
    j, q = te.reduce_axis((0, n), name="j"), te.reduce_axis((0, n), name="q")
    peak = te.compute((m,), lambda i: te.max(x[i, j], axis=[j]), name="peak")
    raised = te.compute((m, n), lambda i, at: vectormath.exp(x[i, at] - peak[i]), name="raised")
    total = te.compute((m,), lambda i: te.sum(raised[i, q], axis=[q]), name="total")
    return te.create_prim_func(
        [x, te.compute((m, n), lambda i, at: raised[i, at] / total[i], name="y")]
    )


_DEFINITIONS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "matmul": matmul,
    "layer_norm": layer_norm,
    "softmax": softmax,
}
PRODUCTS = ("linear", "matmul")


def is_product(kernel: Any) -> bool:
    """Whether ``kernel`` has a plain definition that is a matrix product."""
    note = (kernel.attrs or {}).get(PLAIN_ATTR)
    return note is not None and json.loads(str(note))[0] in PRODUCTS
