"""Products of two activations: a group of (M, K) @ (K, N), as attention has one for each head."""

from __future__ import annotations

from typing import Any

from bench.job.compile.api import T, prim_func
from bench.job.compile.schedules import plain
from bench.job.compile.schedules import tile as tiles
from bench.job.compile.schedules.linear import accumulate, each
from bench.job.compile.schedules.tile import ceil_div
from bench.job.compile.target import CompileTarget


def matmul(g: int, m: int, k: int, n: int, target: CompileTarget) -> Any:
    """The kernel (a (G, M, K), b (G, K, N)) -> (G, M, N)."""
    tile = tiles.choose(m, k, n, target.lanes, target.registers)
    row_tiles, column_tiles = ceil_div(m, tile.rows), ceil_div(n, tile.columns)

    def body() -> None:
        a = T.arg("a", T.buffer((g, m, k), "float32"))
        b = T.arg("b", T.buffer((g, k, n), "float32"))
        c = T.arg("c", T.buffer((g, m, n), "float32"))
        with T.parallel(0, g * column_tiles * row_tiles) as index:
            group = index // (column_tiles * row_tiles)
            row = T.min(index % row_tiles * tile.rows, m - tile.rows)
            column = T.min(index // row_tiles % column_tiles * tile.columns, n - tile.columns)
            acc = accumulate(
                tile, k, lambda i, p: a[group, row + i, p], lambda p, j: b[group, p, column + j]
            )

            def put(i: int, j: Any) -> None:
                T.buffer_store(c, acc[i][j], [group, row + i, column + j])

            each(tile, put)

    return plain.noted(prim_func(f"matmul_{g}x{m}x{k}x{n}", body), "matmul", g=g, m=m, k=k, n=n)
