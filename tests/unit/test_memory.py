"""The block that weights lie in: what TVM sees is what was given, aligned, and stays."""

from __future__ import annotations

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.job.compile import memory

dtypes = st.sampled_from(["float32", "float16", "int8", "uint16", "int64", "bool"])
shapes = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.tuples(dtypes, shapes), max_size=6))
def test_every_tensor_is_a_copy_of_its_array(drawn: list[tuple[str, tuple[int, ...]]]) -> None:
    random = np.random.default_rng(1)
    arrays = [random.integers(0, 2, shape).astype(dtype) for dtype, shape in drawn]
    wanted = [array.copy() for array in arrays]
    tensors = memory.block(arrays)
    for array in arrays:
        array[...] = 0  # what was given is not what is kept
    del arrays
    gc.collect()
    assert len(tensors) == len(wanted)
    for tensor, want in zip(tensors, wanted, strict=True):
        got = tensor.numpy()
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert (got == want).all()


def test_tensors_lie_one_after_the_other_in_whole_lines_of_a_huge_page() -> None:
    tensors = memory.block([np.ones(3, np.float32), np.ones((2, 20), np.float32)])
    first, second = (np.from_dlpack(tensor).ctypes.data for tensor in tensors)
    assert first % 2**21 == 0 and second - first == 64


def test_a_block_outlives_what_was_taken_of_it_first() -> None:
    tensors = memory.block([np.full(2**20, n, np.float32) for n in range(3)])
    last = tensors.pop()
    del tensors
    gc.collect()
    assert (last.numpy() == 2).all()
