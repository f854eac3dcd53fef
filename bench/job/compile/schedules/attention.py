"""Attention in one kernel, from the joint projection of queries, keys and values.

``attention`` is for whole sequences: the keys and values come block by block, and what was
summed so far is rescaled when a larger score turns up, so that no (T, T) tensor exists
(Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022). ``attend`` is for one query and a cache of keys and values.

The queries of a block lie in the lanes of the vectors while there are scores of them: a maximum or
a sum over the keys is then an operation between vectors, and never one within a vector. What is
made of the values lies as these do, so that it is not turned around when it is written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.job.compile.api import T, bind, local_buffer, prim_func, tirx
from bench.job.compile.schedules import tile as tiles
from bench.job.compile.schedules import vectormath
from bench.job.compile.schedules.linear import accumulate, each
from bench.job.compile.schedules.tile import Tile, ceil_div
from bench.job.compile.target import CompileTarget

# Keys of one block: its scores and its values fit the first-level cache together.
_KEYS = 64
_LOWEST = float("-inf")


def attention(
    b: int, t: int, h: int, d: int, *, scale: float, causal: bool, target: CompileTarget
) -> Any:
    """The kernel qkv (B, T, 3, H, D) -> (B, T, H, D); ``scale`` multiplies the scores.

    With ``causal`` a position sees itself and what came before it; blocks of keys that lie
    wholly behind are not visited.
    """
    tile = tiles.choose(t, d, t, target.lanes, target.registers)
    width = tile.columns  # queries of one block
    keys = tile.rows * ceil_div(min(_KEYS, t), tile.rows)
    blocks = ceil_div(t, width)
    columns = _columns(d, width, target)

    def body() -> None:
        qkv = T.arg("qkv", T.buffer((b, t, 3, h, d), "float32"))
        out = T.arg("out", T.buffer((b, t, h, d), "float32"))
        # Blocks vary fastest, so that threads share the heads and so the long rows evenly.
        with T.parallel(0, b * h * blocks) as index:
            batch, head = index // (h * blocks), index // blocks % h
            row = bind(T.min(index % blocks * width, t - width))
            queries, sums = local_buffer(d * width), local_buffer(width * d)
            scores = local_buffer(keys * width)
            peak, fresh, total = (local_buffer(width) for _ in range(3))
            with T.serial(0, width) as i, T.serial(0, d) as p:
                at = p * width + i
                T.buffer_store(queries, qkv[batch, row + i, 0, head, p] * T.float32(scale), [at])
            with T.serial(0, d) as p:
                _each_lane(tile, lambda j: T.buffer_store(sums, T.float32(0), [p * width + j]))
            _each_lane(tile, lambda j: T.buffer_store(peak, tirx.const(_LOWEST, "float32"), [j]))
            _each_lane(tile, lambda j: T.buffer_store(total, T.float32(0), [j]))
            seen = T.min(row + width, t) if causal else t
            with T.serial(0, (seen + (keys - 1)) // keys) as key_block:
                first = bind(key_block * keys)
                count = bind(T.min(keys, seen - first))

                with T.serial(0, (count + (tile.rows - 1)) // tile.rows) as key_tile:
                    # Past the last key the last is read again; nobody looks at its scores.
                    def key(i: int, key_tile: Any = key_tile, first: Any = first) -> Any:
                        return T.min(first + key_tile * tile.rows + i, t - 1)

                    acc = accumulate(
                        tile,
                        d,
                        lambda i, p: qkv[batch, key(i), 1, head, p],
                        lambda p, j: queries[p * width + j],
                    )

                    def put(i: int, j: Any, acc: Any = acc, key: Any = key) -> None:
                        score = acc[i][j]
                        if causal:
                            score = T.Select(key(i) <= row + j, score, T.float32(_LOWEST))
                        T.buffer_store(scores, score, [(key_tile * tile.rows + i) * width + j])

                    each(tile, put)

                _powers(tile, count, scores, (peak, fresh, total))

                def add(i: Any, p: Any, value: Any) -> None:
                    at = i * d + p
                    T.buffer_store(sums, sums[at] * peak[i] + value, [at])

                _add_values(
                    columns,
                    (count, width),
                    lambda j, i: scores[j * width + i],
                    lambda j, p: qkv[batch, first + j, 2, head, p],
                    add,
                )
                _each_lane(tile, lambda j: T.buffer_store(peak, fresh[j], [j]))
            _each_lane(tile, lambda j: T.buffer_store(total, T.float32(1) / total[j], [j]))
            with T.serial(0, width) as i:

                def write(start: int, j: Any) -> None:
                    p = start + j
                    value = sums[i * d + p] * total[i]
                    T.buffer_store(out, value, [batch, row + i, head, p])

                for start, part in columns:
                    _each_lane(part, functools.partial(write, start))

    kind = "causal_attention" if causal else "attention"
    return prim_func(f"{kind}_{b}x{t}x{h}x{d}", body)


def _powers(tile: Tile, count: Any, scores: Any, state: tuple[Any, Any, Any]) -> None:
    """Emit: scores to powers of e, their maximum to ``fresh``.

    ``peak``, the maximum before, becomes what all that was summed before has to be multiplied by.
    """
    peak, fresh, total = state
    width = tile.columns
    _each_lane(tile, lambda j: T.buffer_store(fresh, peak[j], [j]))
    with T.serial(0, count) as k:
        _each_lane(
            tile, lambda j: T.buffer_store(fresh, tirx.max(fresh[j], scores[k * width + j]), [j])
        )
    _each_lane(tile, lambda j: T.buffer_store(peak, vectormath.exp(peak[j] - fresh[j]), [j]))
    _each_lane(tile, lambda j: T.buffer_store(total, total[j] * peak[j], [j]))
    with T.serial(0, count) as k:

        def power(j: Any) -> None:
            at = k * width + j
            T.buffer_store(scores, vectormath.exp(scores[at] - fresh[j]), [at])
            T.buffer_store(total, total[j] + scores[at], [j])

        _each_lane(tile, power)


def _columns(d: int, queries: int, target: CompileTarget) -> list[tuple[int, Tile]]:
    """Where the parts of D columns begin, none of them twice, and the tile of each.

    As many queries are in a tile as there are registers for, and a power of two, so that those of
    a block are tiles and nothing is left.
    """
    rows = min(queries, _power_within((target.registers - target.registers // 4) // 2))
    parts: list[tuple[int, Tile]] = []
    start = 0
    while start < d:
        lanes = min(target.lanes, _power_within(d - start))
        vectors = 2 if d - start >= 2 * lanes == 2 * target.lanes else 1
        parts.append((start, Tile(rows, vectors, lanes, 1)))
        start += vectors * lanes
    return parts


def _power_within(n: int) -> int:
    """The greatest power of two that is not above ``n``."""
    return 1 << (n.bit_length() - 1)


def _add_values(
    columns: list[tuple[int, Tile]],
    sizes: tuple[Any, int],
    weight: Callable[[Any, Any], Any],
    value: Callable[[Any, Any], Any],
    put: Callable[[Any, Any, Any], None],
) -> None:
    """Emit ``put`` for the sums (queries, D) of the values (keys, D) times their weights.

    ``sizes`` are of keys and queries; weights are (keys, queries).
    """
    keys, queries = sizes
    for start, part in columns:

        def block(first: Any, start: int = start, part: Tile = part) -> None:
            acc = accumulate(
                part, keys, lambda i, j: weight(j, first + i), lambda j, c: value(j, start + c)
            )
            each(part, lambda i, c: put(first + i, start + c, acc[i][c]))

        with T.serial(0, queries // part.rows) as index:
            block(index * part.rows)


def _each_lane(tile: Tile, put: Callable[[Any], Any]) -> None:
    """Emit ``put(column)`` for every column of the tile, a vector at a time."""
    each(replace(tile, rows=1), lambda _, j: put(j))


def attend(b: int, h: int, d: int, s: int, *, scale: float, target: CompileTarget) -> Any:
    """One query of each sequence, and ``position`` earlier keys and values in a cache of S.

    The kernel (qkv (B, 3, H, D), keys (B, H, D, S), values (B, H, S, D), position (1,) int64) ->
    (B, H, D). The query's own key and value are in qkv; what the cache holds from the position
    on is not read. Keys and values are each read front to back.
    """
    lanes = target.lanes
    vectors = ceil_div(s, lanes)
    part = min(lanes, _power_within(d))  # lanes of the values' vectors
    starts = [min(start, d - part) for start in range(0, d, part)]
    step = next(step for step in (4, 2, 1) if d % step == 0)

    def body() -> None:
        qkv = T.arg("qkv", T.buffer((b, 3, h, d), "float32"))
        keys = T.arg("keys", T.buffer((b, h, d, s), "float32"))
        values = T.arg("values", T.buffer((b, h, s, d), "float32"))
        position = T.arg("position", T.buffer((1,), "int64"))
        out = T.arg("out", T.buffer((b, h, d), "float32"))
        with T.parallel(0, b * h) as index:
            batch, head = index // h, index % h
            past = bind(T.max(T.min(tirx.Cast("int32", position[0]), s), 0))
            used = bind((past + (lanes - 1)) // lanes)
            query, own = local_buffer(d), local_buffer(1)
            scores = local_buffer(vectors * lanes)
            peak, total = local_buffer(lanes), local_buffer(lanes)
            T.buffer_store(own, T.float32(0), [0])
            with T.serial(0, d) as p:
                T.buffer_store(query, qkv[batch, 0, head, p] * T.float32(scale), [p])
                T.buffer_store(own, own[0] + query[p] * qkv[batch, 1, head, p], [0])

            def score(p: Any, at: Any, before: Any) -> Any:
                for u in range(step):
                    before = before + query[p + u] * keys[batch, head, p + u, at]
                return before

            with T.serial(0, used) as block, T.vectorized(0, lanes) as j:
                T.buffer_store(scores, T.float32(0), [block * lanes + j])
            whole = bind(T.min(used, s // lanes))
            with T.serial(0, d // step) as rows:
                with T.serial(0, whole) as block, T.vectorized(0, lanes) as j:
                    at = block * lanes + j
                    T.buffer_store(scores, score(rows * step, at, scores[at]), [at])
                if s % lanes:
                    with T.serial(0, T.max(past - whole * lanes, 0)) as j:
                        at = whole * lanes + j
                        T.buffer_store(scores, score(rows * step, at, scores[at]), [at])
            with T.serial(0, used * lanes - past) as j:
                T.buffer_store(scores, T.float32(_LOWEST), [past + j])

            with T.vectorized(0, lanes) as j:
                T.buffer_store(peak, own[0], [j])
            with T.serial(0, used) as block, T.vectorized(0, lanes) as j:
                T.buffer_store(peak, tirx.max(peak[j], scores[block * lanes + j]), [j])
            _combine(peak, lanes, tirx.max)
            most = bind(peak[0])
            with T.vectorized(0, lanes) as j:
                T.buffer_store(total, T.float32(0), [j])
            with T.serial(0, used) as block, T.vectorized(0, lanes) as j:
                at = block * lanes + j
                T.buffer_store(scores, vectormath.exp(scores[at] - most), [at])
                T.buffer_store(total, total[j] + scores[at], [j])
            _combine(total, lanes, lambda x, y: x + y)
            weight = bind(vectormath.exp(own[0] - most))
            inverse = bind(T.float32(1) / (total[0] + weight))

            sums = [local_buffer(part) for _ in starts]
            for start, acc in zip(starts, sums, strict=True):
                with T.vectorized(0, part) as j:
                    T.buffer_store(acc, weight * qkv[batch, 2, head, start + j], [j])
            with T.serial(0, past) as k:
                for start, acc in zip(starts, sums, strict=True):
                    with T.vectorized(0, part) as j:
                        value = values[batch, head, k, start + j]
                        T.buffer_store(acc, acc[j] + scores[k] * value, [j])
            for start, acc in zip(starts, sums, strict=True):
                with T.vectorized(0, part) as j:
                    T.buffer_store(out, acc[j] * inverse, [batch, head, start + j])

    return prim_func(f"attend_{b}x{h}x{d}x{s}", body)


def _combine(parts: Any, lanes: int, function: Callable[[Any, Any], Any]) -> None:
    """Emit ``function`` over all lanes of ``parts``; its first element is the result."""
    while lanes > 1:
        lanes //= 2
        with T.vectorized(0, lanes) as j:
            T.buffer_store(parts, function(parts[j], parts[lanes + j]), [j])
