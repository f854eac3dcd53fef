"""Attention on a GPU in one kernel, and for one query over a cache in one kernel or two.

``attention`` is FlashAttention's order of work (Dao et al., 2022; the running maximum by Milakov
and Gimelshein, 2018): a block of threads has some queries and walks over the keys, a tile in
shared memory at a time. ``attend`` cuts a long cache into parts with a block of threads for each,
as FlashDecoding does (Dao et al., 2023), since one query of few heads cannot fill a GPU.

float16 is what memory holds; products, sums and exp are float32. No tensor core is used.
"""

from __future__ import annotations

from typing import Any

from bench.job.compile.api import T, bind, tirx
from bench.job.compile.gpu import kernel
from bench.job.compile.schedules.gpu import block
from bench.job.compile.schedules.gpu.block import as_type, barrier, f32, in_turns
from bench.job.compile.schedules.tile import ceil_div

_THREADS = 128
_SHARED_BYTES = 48 * 1024  # what every GPU gives a block without asking
_PART = 256  # positions of a cache that one block of threads looks at


def tile_rows(d: int) -> int:
    """Queries, and keys, of one tile: what fits shared memory beside the scores."""
    for rows in (32, 16, 8):
        if 4 * (2 * rows * (d + 1) + rows * (rows + 1)) <= _SHARED_BYTES:
            return rows
    return 4


def fits(d: int) -> bool:
    """Whether heads of this width can be had at all."""
    rows = tile_rows(d)
    return 4 * (2 * rows * (d + 1) + rows * (rows + 1)) <= _SHARED_BYTES


def attention(
    b: int, t: int, h: int, d: int, *, scale: float, causal: bool, dtype: str = "float32"
) -> Any:
    """The kernel qkv (B, T, 3, H, D) -> (B, T, H, D); ``scale`` multiplies the scores.

    With ``causal`` a position sees itself and what came before it; tiles of keys that lie wholly
    behind are not visited.
    """
    rows = tile_rows(d)
    helpers = _THREADS // rows  # threads that share a query
    stride = d + 1  # neighbouring rows begin in neighbouring banks of shared memory
    tiles = ceil_div(t, rows)
    columns = ceil_div(d, helpers)

    def body() -> None:
        qkv = T.arg("qkv", T.buffer((b, t, 3, h, d), dtype))
        out = T.arg("out", T.buffer((b, t, h, d), dtype))
        with block.launch(b * h * tiles, _THREADS) as (index, thread):
            queries, loaded = block.shared(rows * stride), block.shared(rows * stride)
            scores = block.shared(rows * (rows + 1))
            sums, state = block.registers(columns), block.registers(4)
            peak, total, fresh, shrink = 0, 1, 2, 3
            batch, head = bind(index // tiles // h), bind(index // tiles % h)
            # The last queries see most keys: they begin first.
            at = bind((tiles - 1 - index % tiles) if causal else index % tiles)
            first = bind(at * rows)
            row, part = bind(thread // helpers), bind(thread % helpers)

            def load(to: Any, which: int, start: Any, factor: float = 1.0) -> None:
                def put(i: Any) -> None:
                    place = T.min(start + i // d, t - 1)
                    value = f32(qkv[batch, place, which, head, i % d]) * f32(factor)
                    T.buffer_store(to, value, [i // d * stride + i % d])

                in_turns(thread, _THREADS, rows * d, put)

            load(queries, 0, first, scale)
            T.buffer_store(state, f32(block.LOWEST), [peak])
            T.buffer_store(state, f32(0.0), [total])
            with T.unroll(0, columns) as c:
                T.buffer_store(sums, f32(0.0), [c])
            with T.serial(0, at + 1 if causal else tiles) as key_tile:
                start = bind(key_tile * rows)
                barrier()  # the values before are read
                load(loaded, 1, start)
                barrier()
                with T.serial(0, ceil_div(rows, helpers)) as turn:
                    key = turn * helpers + part
                    with T.If(key < rows), T.Then():
                        T.buffer_store(state, f32(0.0), [fresh])
                        with T.serial(0, d) as p:
                            product = queries[row * stride + p] * loaded[key * stride + p]
                            T.buffer_store(state, state[fresh] + product, [fresh])
                        seen = start + key < t
                        if causal:
                            seen = tirx.all(seen, start + key <= first + row)
                        score = T.Select(seen, state[fresh], f32(block.LOWEST))
                        T.buffer_store(scores, score, [row * (rows + 1) + key])
                barrier()
                load(loaded, 2, start)
                T.buffer_store(state, state[peak], [fresh])
                with T.serial(0, rows) as key:
                    most = tirx.max(state[fresh], scores[row * (rows + 1) + key])
                    T.buffer_store(state, most, [fresh])
                T.buffer_store(state, T.exp(state[peak] - state[fresh]), [shrink])
                T.buffer_store(state, state[fresh], [peak])
                T.buffer_store(state, state[total] * state[shrink], [total])
                barrier()
                with T.unroll(0, columns) as c:
                    T.buffer_store(sums, sums[c] * state[shrink], [c])
                with T.serial(0, rows) as key:
                    # Each helper has its own: cheaper than another turn through shared memory.
                    weight = bind(T.exp(scores[row * (rows + 1) + key] - state[peak]))
                    T.buffer_store(state, state[total] + weight, [total])
                    with T.unroll(0, columns) as c:
                        column = T.min(c * helpers + part, d - 1)
                        added = sums[c] + weight * loaded[key * stride + column]
                        T.buffer_store(sums, added, [c])
            with T.If(first + row < t), T.Then(), T.unroll(0, columns) as c:
                column = c * helpers + part
                with T.If(column < d), T.Then():
                    value = as_type(dtype, sums[c] / state[total])
                    T.buffer_store(out, value, [batch, first + row, head, column])

    kind = "causal_attention" if causal else "attention"
    return kernel(f"{kind}_{b}x{t}x{h}x{d}_{dtype}", body)


def parts_of(s: int) -> int:
    """Into how many parts a cache of S positions is cut."""
    return ceil_div(s, _PART)


def attend(b: int, h: int, d: int, s: int, *, scale: float, dtype: str = "float32") -> Any:
    """One query of each sequence, and ``position`` earlier keys and values in a cache of S.

    The kernel (qkv (B, 3, H, D), keys (B, H, D, S), values (B, H, S, D), position (1,) int64) ->
    (B, H, D). The query's own key and value are in qkv; what the cache holds from the position on
    is not read. Where ``parts_of(s)`` is above 1 it gives float32 (B, H, parts, D + 2) instead:
    sums, their maximum and their total, for ``merge``.
    """
    parts = parts_of(s)
    width = min(d, _THREADS)  # columns of the values side by side
    groups = _THREADS // width

    def body() -> None:
        qkv = T.arg("qkv", T.buffer((b, 3, h, d), dtype))
        keys = T.arg("keys", T.buffer((b, h, d, s), dtype))
        values = T.arg("values", T.buffer((b, h, s, d), dtype))
        position = T.arg("position", T.buffer((1,), "int64"))
        whole = parts == 1
        out = T.arg(
            "out",
            T.buffer((b, h, d), dtype) if whole else T.buffer((b, h, parts, d + 2), "float32"),
        )
        with block.launch(b * h * parts, _THREADS) as (index, thread):
            query, scores = block.shared(d), block.shared(_PART)
            folded, sums = block.shared(_THREADS), block.registers(1)
            batch = bind(index // parts // h)
            head, part = bind(index // parts % h), bind(index % parts)
            past = bind(T.max(T.min(tirx.Cast("int32", position[0]), s), 0))
            start = bind(part * _PART)
            count = bind(T.max(T.min(past - start, _PART), 0))

            def load(i: Any) -> None:
                T.buffer_store(query, f32(qkv[batch, 0, head, i]) * f32(scale), [i])

            in_turns(thread, _THREADS, d, load)
            T.buffer_store(folded, f32(0.0), [thread])
            barrier()

            def own_score(i: Any) -> None:
                product = query[i] * f32(qkv[batch, 1, head, i])
                T.buffer_store(folded, folded[thread] + product, [thread])

            in_turns(thread, _THREADS, d, own_score)
            block.combine(folded, thread, _THREADS, lambda x, y: x + y)
            own = block.registers(1)
            # The token itself belongs to the first part.
            T.buffer_store(own, T.Select(part == 0, folded[0], f32(block.LOWEST)), [0])
            barrier()  # before the next reduction writes what was just read
            T.buffer_store(folded, own[0], [thread])

            def score(i: Any) -> None:
                T.buffer_store(sums, f32(block.LOWEST), [0])
                with T.If(i < count), T.Then():
                    T.buffer_store(sums, f32(0.0), [0])
                    with T.serial(0, d) as p:
                        product = query[p] * f32(keys[batch, head, p, start + i])
                        T.buffer_store(sums, sums[0] + product, [0])
                T.buffer_store(scores, sums[0], [i])
                T.buffer_store(folded, tirx.max(folded[thread], sums[0]), [thread])

            in_turns(thread, _THREADS, _PART, score)
            block.combine(folded, thread, _THREADS, tirx.max)
            peak = block.registers(1)
            T.buffer_store(peak, folded[0], [0])
            barrier()
            T.buffer_store(folded, f32(0.0), [thread])

            def power(i: Any) -> None:
                weight = T.Select(i < count, T.exp(scores[i] - peak[0]), f32(0.0))
                T.buffer_store(scores, weight, [i])
                T.buffer_store(folded, folded[thread] + scores[i], [thread])

            in_turns(thread, _THREADS, _PART, power)
            block.combine(folded, thread, _THREADS, lambda x, y: x + y)
            total = block.registers(2)
            T.buffer_store(total, T.Select(part == 0, T.exp(own[0] - peak[0]), f32(0.0)), [1])
            T.buffer_store(total, folded[0] + total[1], [0])
            barrier()

            group, lane = bind(thread // width), bind(thread % width)
            for chunk in range(0, d, width):
                column = T.min(chunk + lane, d - 1)
                T.buffer_store(sums, f32(0.0), [0])
                turns = ceil_div_expr(count - group, groups)
                with T.If(group < groups), T.Then(), T.serial(0, turns) as k:
                    at = k * groups + group
                    value = f32(values[batch, head, start + at, column])
                    T.buffer_store(sums, sums[0] + scores[at] * value, [0])
                T.buffer_store(folded, sums[0], [thread])
                barrier()
                with T.If(tirx.all(thread < width, chunk + thread < d)), T.Then():
                    place = chunk + thread
                    mine = total[1] * f32(qkv[batch, 2, head, place])
                    T.buffer_store(sums, mine, [0])
                    with T.serial(0, groups) as g:
                        T.buffer_store(sums, sums[0] + folded[g * width + thread], [0])
                    if whole:
                        done = as_type(dtype, sums[0] / total[0])
                        T.buffer_store(out, done, [batch, head, place])
                    else:
                        T.buffer_store(out, sums[0], [batch, head, part, place])
                barrier()
            if not whole:
                with T.If(thread == 0), T.Then():
                    T.buffer_store(out, peak[0], [batch, head, part, d])
                    T.buffer_store(out, total[0], [batch, head, part, d + 1])

    return kernel(f"attend_{b}x{h}x{d}x{s}_{dtype}", body)


def ceil_div_expr(a: Any, by: int) -> Any:
    """As ``ceil_div``, of an expression, and 0 where it is negative."""
    return T.max(a + (by - 1), 0) // by


def merge(b: int, h: int, d: int, parts: int, *, dtype: str = "float32") -> Any:
    """The kernel (parts of ``attend`` (B, H, parts, D + 2)) -> (B, H, D)."""

    def body() -> None:
        found = T.arg("found", T.buffer((b, h, parts, d + 2), "float32"))
        out = T.arg("out", T.buffer((b, h, d), dtype))
        with block.launch(b * h, _THREADS) as (index, thread):
            batch, head = bind(index // h), bind(index % h)
            state = block.registers(3)
            peak, total, sums = 0, 1, 2
            T.buffer_store(state, f32(block.LOWEST), [peak])
            with T.serial(0, parts) as part:
                most = tirx.max(state[peak], found[batch, head, part, d])
                T.buffer_store(state, most, [peak])

            def put(i: Any) -> None:
                T.buffer_store(state, f32(0.0), [total])
                T.buffer_store(state, f32(0.0), [sums])
                with T.serial(0, parts) as part:
                    share = bind(T.exp(found[batch, head, part, d] - state[peak]))
                    added = state[total] + share * found[batch, head, part, d + 1]
                    T.buffer_store(state, added, [total])
                    added = state[sums] + share * found[batch, head, part, i]
                    T.buffer_store(state, added, [sums])
                T.buffer_store(out, as_type(dtype, state[sums] / state[total]), [batch, head, i])

            in_turns(thread, _THREADS, d, put)

    return kernel(f"attend_merge_{b}x{h}x{d}x{parts}_{dtype}", body)
