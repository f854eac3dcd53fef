"""x @ W.T for a constant W, packed once, with what follows it; and rows of a packed embedding.

``panels`` says how W lies in memory. The tile of the product stays in registers while a panel is
read; a channel's scale, what is added and the activation are worked on there too, before the tile
is written: the product itself never is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.job.compile.api import T, bind, local_buffer, prim_func
from bench.job.compile.schedules import plain, vectormath
from bench.job.compile.schedules import tile as tiles
from bench.job.compile.schedules.panels import FLOAT32, Format, packed_shape
from bench.job.compile.schedules.prefetch import Ahead, is_zen
from bench.job.compile.schedules.tile import Tile, ceil_div
from bench.job.compile.target import CompileTarget

Operand = Callable[[Any, Any], Any]
Widen = Callable[[Any], Any]

_GROUP_BYTES = 2**17  # of float32 panels, beside what else is in the second-level cache
_TURNS = 8  # of each core, at least: so that they end together
# Panels that one row is multiplied with at a time, and the turns that each core has then at least.
_STREAMS = (4, 2)
_STREAM_TURNS = 2

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": vectormath.gelu,
    "gelu_tanh": vectormath.gelu_tanh,
}


def linear(
    m: int,
    n: int,
    k: int,
    *,
    bias: bool,
    target: CompileTarget,
    activation: str | None = None,
    residual: bool = False,
    stored: Format = FLOAT32,
) -> Any:
    """The kernel (x (M, K), packed W[, s (N,)][, b (N,)][, r (M, N)]) -> y (M, N).

    y is r + activation(s * (x @ W.T) + b). ``activation`` is a key of ``ACTIVATIONS``; W is
    ``stored`` as that says, and the scales s are there if it has any.
    """
    width = tiles.panel_width(target)
    tile = tiles.choose(m, k, width, target.lanes, target.registers)
    panels, row_tiles = ceil_div(n, width), ceil_div(m, tile.rows)
    streams = _streams(m, panels, stored, target)
    turns = ceil_div(panels, streams)  # of each stream: the last may do its last panel again
    several = replace(tile, vectors=streams * tile.vectors)
    group = _together(panels, row_tiles, k * width, target.cores)
    ahead = Ahead(tile, k, stored.size, panels, group, row_tiles, target.mcpu)

    def body() -> None:
        x = T.arg("x", T.buffer((m, k), "float32"))
        w = T.arg("w", T.buffer(packed_shape(n, k, width), stored.dtype))
        s = T.arg("s", T.buffer((n,), "float32")) if stored.scaled else None
        b = T.arg("b", T.buffer((n,), "float32")) if bias else None
        r = T.arg("r", T.buffer((m, n), "float32")) if residual else None
        y = T.arg("y", T.buffer((m, n), "float32"))
        # Row tiles vary faster than groups: a thread keeps these in its cache for all of them.
        with (
            T.parallel(0, ceil_div(turns, group) * row_tiles) as index,
            T.serial(0, T.min(group, turns - index // row_tiles * group)) as place,
        ):
            first = bind(index // row_tiles * group + place)
            row = bind(T.min(index % row_tiles * tile.rows, m - tile.rows))

            def panel(j: Any) -> Any:
                return first if streams == 1 else T.min(first + j // width * turns, panels - 1)

            def within(j: Any) -> Any:
                return j if streams == 1 else j % width

            acc = accumulate(
                *(several, k, lambda i, p: x[row + i, p], lambda p, j: w[panel(j), p, within(j)]),
                widen=None if stored is FLOAT32 else stored.widen,
                # Several streams are as fast as memory without asking.
                each_step=None
                if streams > 1
                else lambda step: ahead.emit(w, first, index % row_tiles, step),
            )

            def put(i: int, j: Any) -> None:
                column = panel(j) * width + within(j)
                if s is not None:  # once a sum, and not once a weight
                    T.buffer_store(acc[i], acc[i][j] * s[column], [j])
                if b is not None:
                    T.buffer_store(acc[i], acc[i][j] + b[column], [j])
                value = ACTIVATIONS[activation](acc[i][j]) if activation else acc[i][j]
                if r is not None:
                    value = value + r[row + i, column]
                T.buffer_store(y, value, [row + i, column])

            if n % width == 0:
                each(several, put)
            else:  # the last panel, which is of the last stream, is not full
                before = (streams - 1) * turns
                with T.If(first < panels - 1 - before):
                    with T.Then():
                        each(several, put)
                    with T.Else():
                        each(replace(tile, vectors=(streams - 1) * tile.vectors), put)
                        with T.serial(0, n % width) as j:
                            for i in range(tile.rows):
                                put(i, (streams - 1) * width + j)

    also = [_suffix(stored), "_bias" if bias else "", f"_{activation}" if activation else ""]
    name = f"linear_{m}x{n}x{k}{''.join(also)}{'_residual' if residual else ''}"
    kernel = prim_func(name, body)
    if stored is not FLOAT32:  # its plain definition would have to widen too: it is not tuned
        return kernel
    return plain.noted(
        kernel,
        "linear",
        **{"m": m, "n": n, "k": k, "width": width},
        **{"bias": bias, "activation": activation, "residual": residual},
    )


def _together(panels: int, row_tiles: int, elements: int, cores: int) -> int:
    """How many panels of so many elements a tile of rows passes before the next one.

    Where K is small a panel takes less time to multiply than its columns of the result take to be
    written: so these are written some KiB a row at a time, not one tile's width.
    """
    if row_tiles == 1:  # nothing is read again
        return 1
    in_cache = _GROUP_BYTES // (4 * elements)
    for_all_cores = panels * row_tiles // (_TURNS * cores)
    return max(1, min(in_cache, for_all_cores))


def _streams(m: int, panels: int, stored: Format, target: CompileTarget) -> int:
    """How many panels, far apart, are read side by side where there is one row of float32.

    A processor's own guesses begin anew with every page of 4 KiB: meanwhile the others come. Each
    column's sum is what it would be alone. On AMD's Zen this was not measured.
    """
    if m > 1 or stored is not FLOAT32 or is_zen(target.mcpu):
        return 1

    def fit(streams: int) -> bool:
        enough = panels >= streams * _STREAM_TURNS * target.cores
        # The last panel, which may not be full, is the last stream's alone.
        return enough and (streams - 1) * ceil_div(panels, streams) < panels

    return next(filter(fit, _STREAMS), 1)


def _suffix(stored: Format) -> str:
    return "" if stored is FLOAT32 else f"_{stored.name}"


def gather(count: int, n: int, k: int, width: int, stored: Format = FLOAT32) -> Any:
    """The kernel (packed W of (N, K)[, s (N,)], indices (count,) int32) -> rows (count, K).

    ``stored`` as in ``linear``.
    """

    def body() -> None:
        w = T.arg("w", T.buffer(packed_shape(n, k, width), stored.dtype))
        s = T.arg("s", T.buffer((n,), "float32")) if stored.scaled else None
        rows = T.arg("rows", T.buffer((count,), "int32"))
        y = T.arg("y", T.buffer((count, k), "float32"))
        with T.parallel(0, count) as i, T.serial(0, k) as p:
            value = stored.widen(w[rows[i] // width, p, rows[i] % width])
            T.buffer_store(y, value if s is None else value * s[rows[i]], [i, p])

    return prim_func(f"gather_{count}x{k}{_suffix(stored)}", body)


def accumulate(
    tile: Tile,
    k: int,
    left: Operand,
    right: Operand,
    *,
    widen: Widen | None = None,
    each_step: Callable[[Any], None] | None = None,
) -> list[Any]:
    """Emit the sum over K of ``left(row, p) * right(p, column)``.

    With ``widen``, that of the right operand is what is multiplied: it is taken once for each
    step of K, whatever the number of rows. ``each_step`` emits what else is to be done before
    each ``tile.unroll`` steps, of which it is told the number.

    Returns:
        The sums, for each row (columns,), in registers: the loops over the tile are unrolled.
        A buffer a row, since TVM takes one of 1 KiB or more from its allocator.
    """
    # A sum waits for the one before it. Of one row a step of K has two sums only, and if its
    # bytes are few then that is longer than reading them takes: every other step has its own.
    chains = 2 if widen is not None and tile.rows == 1 and tile.unroll > 1 else 1
    acc = [[local_buffer(tile.columns) for _ in range(tile.rows)] for _ in range(chains)]
    wide = None if widen is None else local_buffer(tile.columns)

    def clear(i: int, j: Any) -> None:
        for chain in acc:
            T.buffer_store(chain[i], T.float32(0), [j])

    each(tile, clear)
    with T.serial(0, k // tile.unroll) as block:
        if each_step is not None:
            each_step(block)
        for u in range(tile.unroll):
            p, chain = block * tile.unroll + u, acc[u % chains]
            if wide is not None and widen is not None:
                for v in range(tile.vectors):
                    with T.vectorized(0, tile.lanes) as j:
                        at = v * tile.lanes + j
                        T.buffer_store(wide, widen(right(p, at)), [at])

            def add(i: int, j: Any, p: Any = p, chain: list[Any] = chain) -> None:
                factor = right(p, j) if wide is None else wide[j]
                T.buffer_store(chain[i], chain[i][j] + left(i, p) * factor, [j])

            each(tile, add)

    def join(i: int, j: Any) -> None:
        for chain in acc[1:]:
            T.buffer_store(acc[0][i], acc[0][i][j] + chain[i][j], [j])

    if chains > 1:
        each(tile, join)
    return acc[0]


def each(tile: Tile, put: Callable[[int, Any], None]) -> None:
    """Emit ``put(row, column)`` for every place of the tile, a vector at a time."""
    for i in range(tile.rows):
        for v in range(tile.vectors):
            with T.vectorized(0, tile.lanes) as j:
                put(i, v * tile.lanes + j)
