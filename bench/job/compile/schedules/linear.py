"""x @ W.T for a constant W, packed once, with what follows it; and rows of a packed embedding.

Layout of a packed weight (N, K): panels of ``width`` outputs, (ceil(N / width), K, width), the
last filled up with zeros. A panel is read once, front to back, while the tile of the product
stays in registers (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
2008). What is added to a product, and the activation, are worked on there too, before the tile is
written: the product itself never is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.job.compile.api import T, local_buffer, prim_func
from bench.job.compile.schedules import plain, vectormath
from bench.job.compile.schedules import tile as tiles
from bench.job.compile.schedules.tile import Tile, ceil_div
from bench.job.compile.target import CompileTarget

Operand = Callable[[Any, Any], Any]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": vectormath.gelu,
    "gelu_tanh": vectormath.gelu_tanh,
}


def packed_shape(n: int, k: int, width: int) -> tuple[int, int, int]:
    """The shape of a packed (n, k) weight: panels, K, panel width."""
    return ceil_div(n, width), k, width


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """A weight (N, K) as panels (ceil(N / width), K, width)."""
    n, k = weight.shape
    panels = ceil_div(n, width)
    padded = np.zeros((panels * width, k), weight.dtype)
    padded[:n] = weight
    return np.ascontiguousarray(padded.reshape(panels, width, k).transpose(0, 2, 1))


def linear(
    m: int,
    n: int,
    k: int,
    *,
    bias: bool,
    target: CompileTarget,
    activation: str | None = None,
    residual: bool = False,
) -> Any:
    """The kernel (x (M, K), packed W[, b (N,)][, r (M, N)]) -> r + activation(x @ W.T + b), (M, N).

    ``activation`` is a key of ``ACTIVATIONS``.
    """
    width = tiles.panel_width(target)
    tile = tiles.choose(m, k, width, target.lanes, target.registers)
    panels, row_tiles = ceil_div(n, width), ceil_div(m, tile.rows)

    def body() -> None:
        x = T.arg("x", T.buffer((m, k), "float32"))
        w = T.arg("w", T.buffer((panels, k, width), "float32"))
        b = T.arg("b", T.buffer((n,), "float32")) if bias else None
        r = T.arg("r", T.buffer((m, n), "float32")) if residual else None
        y = T.arg("y", T.buffer((m, n), "float32"))
        # Row tiles vary fastest: a thread keeps a panel in its cache for all of them.
        with T.parallel(0, panels * row_tiles) as index:
            panel = index // row_tiles
            row = T.min(index % row_tiles * tile.rows, m - tile.rows)
            acc = accumulate(tile, k, lambda i, p: x[row + i, p], lambda p, j: w[panel, p, j])
            column = panel * width

            def put(i: int, j: Any) -> None:
                if b is not None:
                    T.buffer_store(acc[i], acc[i][j] + b[column + j], [j])
                value = ACTIVATIONS[activation](acc[i][j]) if activation else acc[i][j]
                if r is not None:
                    value = value + r[row + i, column + j]
                T.buffer_store(y, value, [row + i, column + j])

            if n % width == 0:
                each(tile, put)
            else:
                with T.If(panel < panels - 1):
                    with T.Then():
                        each(tile, put)
                    with T.Else(), T.serial(0, n % width) as j:
                        for i in range(tile.rows):
                            put(i, j)

    also = ("_bias" if bias else "", f"_{activation}" if activation else "")
    name = f"linear_{m}x{n}x{k}{''.join(also)}{'_residual' if residual else ''}"
    return plain.noted(
        prim_func(name, body),
        "linear",
        **{"m": m, "n": n, "k": k, "width": width},
        **{"bias": bias, "activation": activation, "residual": residual},
    )


def gather(count: int, n: int, k: int, width: int) -> Any:
    """The kernel (packed W of (N, K), indices (count,) int32) -> rows (count, K)."""

    def body() -> None:
        w = T.arg("w", T.buffer(packed_shape(n, k, width), "float32"))
        rows = T.arg("rows", T.buffer((count,), "int32"))
        y = T.arg("y", T.buffer((count, k), "float32"))
        with T.parallel(0, count) as i, T.serial(0, k) as p:
            T.buffer_store(y, w[rows[i] // width, p, rows[i] % width], [i, p])

    return prim_func(f"gather_{count}x{k}", body)


def accumulate(tile: Tile, k: int, left: Operand, right: Operand) -> list[Any]:
    """Emit the sum over K of ``left(row, p) * right(p, column)``.

    Returns:
        The sums, for each row (columns,), in registers: the loops over the tile are unrolled.
        A buffer a row, since TVM takes one of 1 KiB or more from its allocator.
    """
    acc = [local_buffer(tile.columns) for _ in range(tile.rows)]

    def clear(i: int, j: Any) -> None:
        T.buffer_store(acc[i], T.float32(0), [j])

    each(tile, clear)
    with T.serial(0, k // tile.unroll) as block:
        for u in range(tile.unroll):
            p = block * tile.unroll + u

            def add(i: int, j: Any, p: Any = p) -> None:
                T.buffer_store(acc[i], acc[i][j] + left(i, p) * right(p, j), [j])

            each(tile, add)
    return acc


def each(tile: Tile, put: Callable[[int, Any], None]) -> None:
    """Emit ``put(row, column)`` for every place of the tile, a vector at a time."""
    for i in range(tile.rows):
        for v in range(tile.vectors):
            with T.vectorized(0, tile.lanes) as j:
                put(i, v * tile.lanes + j)
