"""What one call of a model needs at least: operations and bytes, counted from its geometry.

Pure arithmetic on shapes, the same for every backend, so that a fraction of the machine's peak
compares backends and not ways of counting. docs/roofline.md says what is counted and why.

Letters as in ``bench.job.gpt``: B batch, T positions, C width, V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.catalog import DECODE_STEPS, BertConfig, Geometry

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}  # of one element


@dataclass(frozen=True)
class Work:
    """One call. ``flops`` counts a multiply-add as two; ``bytes_moved`` to and from memory."""

    flops: float
    bytes_moved: float


def of_call(
    geometry: Geometry,
    mode: str,
    batch_size: int,
    seq_len: int,
    dtype: str,
    weight_dtype: str | None = None,
) -> Work:
    """The work of one timed call: all positions of a prefill or an encoding, a token of a decode.

    ``weight_dtype`` is the type that the matrices are stored in, where that is not ``dtype``; the
    token embedding is one of them.

    Raises:
        KeyError: a type is not a key of ``BYTES``.
    """
    B, C, V, L = batch_size, geometry.n_embd, geometry.vocab_size, geometry.n_layer
    bert = isinstance(geometry, BertConfig)
    decode = mode == "decode"
    past = _mean_past(geometry, seq_len) if decode else 0.0
    pairs: float
    positions = 1 if decode else seq_len  # of one sequence, in this call
    if decode:
        pairs = past + 1  # the token sees those before it, and itself
    elif bert:
        pairs = seq_len * seq_len
    else:
        pairs = seq_len * (seq_len + 1) / 2  # no position needs what comes after it
    multiply_adds = (
        B * positions * (L * _linear(C) + _head(bert, C, V))
        + B * L * 2 * C * pairs  # queries by keys, and what comes of it by values
    )
    looked_up = min(B * positions, V)  # rows of the embedding; the tied head reads all, later
    matrices = L * _linear(C) + _head(bert, C, V) + looked_up * C
    elements: float = (
        _vectors(geometry)
        + positions * C  # rows of the positions' embedding
        + B * positions * V  # the logits, written
    )
    if decode:
        elements += B * L * 2 * C * (past + 1)  # keys and values: the past read, its own written
    if weight_dtype == "int8":
        elements += _channels(geometry) + looked_up  # a scale for each
    moved = matrices * BYTES[weight_dtype or dtype] + elements * BYTES[dtype]
    return Work(flops=2.0 * multiply_adds, bytes_moved=float(moved))


def _mean_past(geometry: Geometry, seq_len: int) -> float:
    """Positions in the cache of the mean decoded token: from ``seq_len`` on, again and again."""
    steps = min(DECODE_STEPS, geometry.block_size - seq_len)
    return seq_len + (steps - 1) / 2


def _linear(width: int) -> int:
    """Weights of a block's four matrices: C by 3C, C by C, C by 4C and 4C by C."""
    return 12 * width * width


def _head(bert: bool, width: int, vocabulary: int) -> int:
    """Weights of the matrices after the blocks; a BERT's head has a layer of its own."""
    return width * vocabulary + (width * width if bert else 0)


def _vectors(geometry: Geometry) -> int:
    """Elements that every call has to read beside the matrices: biases, norms, a row of types.

    They are 13 C of a block: 3C, C, 4C and C of its matrices, 2C of each norm.
    """
    C, V = geometry.n_embd, geometry.vocab_size
    blocks = geometry.n_layer * 13 * C
    if isinstance(geometry, BertConfig):
        # The embeddings' norm and one row of types; the head's bias and norm; the decoder's bias.
        return blocks + 2 * C + C + 3 * C + V
    return blocks + 2 * C


def _channels(geometry: Geometry) -> int:
    """Outputs of all matrices: 3C, C, 4C and C of a block; V of the head, a BERT's C more."""
    C = geometry.n_embd
    own = C if isinstance(geometry, BertConfig) else 0
    return geometry.n_layer * 9 * C + geometry.vocab_size + own
