"""Weights in fewer bits: how far they are from what they were, and what a model then is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.job import bert, gpt, quantise

finite = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=finite)


@given(matrices)
def test_int8_is_off_by_half_a_step_at_most(weight: np.ndarray) -> None:
    whole, scales = quantise.to_int8(weight)
    assert whole.dtype == np.int8 and scales.dtype == np.float32
    assert (whole.shape, scales.shape) == (weight.shape, weight.shape[:1])
    assert (scales > 0).all() and (whole >= -127).all()
    step = scales.astype(np.float64)[:, None]
    off = np.abs(weight - whole * step)
    assert (off <= step * (0.5 + 1e-5)).all()
    # No step is larger than it need be: each channel's largest weight is at the end of the range.
    largest = np.abs(weight).max(axis=1)
    assert (np.abs(whole).max(axis=1)[largest > 1e-30] == 127).all()


@given(matrices)
def test_bfloat16_is_the_nearest_there_is(weight: np.ndarray) -> None:
    words = quantise.to_bfloat16(weight)
    assert words.dtype == np.uint16 and words.shape == weight.shape

    def value(word: np.ndarray) -> np.ndarray:
        return (word.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    off = np.abs(value(words) - weight)
    assert (off <= np.abs(weight) / 256).all()
    for other in (words + 1, words - 1):  # its neighbours; past the ends they are not finite
        beside = np.abs(value(other.astype(np.uint16)) - weight)
        assert (~np.isfinite(beside) | (off <= beside)).all()


def test_ties_go_to_the_even_one_and_a_nan_stays_one() -> None:
    one = np.float32(1)
    given_ = np.array([one + 2**-8, one + 3 * 2**-8, np.nan, np.inf], np.float32)
    assert quantise.to_bfloat16(given_[None]).tolist()[0][:2] == [0x3F80, 0x3F82]
    word = quantise.to_bfloat16(given_[None])[0]
    assert np.isnan((word.astype(np.uint32) << 16).view(np.float32)[2])
    assert word[3] == 0x7F80


def test_channels_of_zeros_and_of_what_is_no_number() -> None:
    weight = np.array([[0, 0], [1, np.nan], [np.inf, 2], [1e-44, 0], [3, -1]], np.float32)
    whole, scales = quantise.to_int8(weight)
    assert whole[0].tolist() == [0, 0]
    assert np.isfinite(scales).tolist() == [True, False, False, True, True]
    assert (scales > 0)[[0, 3, 4]].all()
    assert whole[4].tolist() == [127, -42]


@settings(max_examples=20)
@given(matrices, st.sampled_from(["int8", "bfloat16"]))
def test_what_is_rounded_is_what_is_stored(weight: np.ndarray, dtype: str) -> None:
    got = quantise.rounded(torch.from_numpy(weight), dtype).numpy()
    if dtype == "int8":
        whole, scales = quantise.to_int8(weight)
        want = whole.astype(np.float64) * scales.astype(np.float64)[:, None]
    else:
        want = (quantise.to_bfloat16(weight).astype(np.uint32) << 16).view(np.float32)
    assert (got == want).all()


def test_another_type_is_refused() -> None:
    with pytest.raises(KeyError, match="int4"):
        quantise.rounded(torch.zeros(1, 1), "int4")


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_matrices_are_rounded_and_nothing_else(kind: str, dtype: str) -> None:
    def model() -> torch.nn.Module:
        if kind == "gpt":
            return gpt.build(gpt.GPTConfig(1, 2, 8, 16, 33), 1)
        return bert.build(bert.BertConfig(1, 2, 8, 16, 33, 2), 1)

    before, after = dict(model().named_parameters()), quantise.widened(model(), dtype)
    for name, parameter in after.named_parameters():
        assert parameter.dtype == torch.float64
        matrix = name == "wte.weight" or ("c_" in name and name.endswith("weight"))
        want = quantise.rounded(before[name].data, dtype) if matrix else before[name].double()
        assert torch.equal(parameter.data, want), name
        assert torch.equal(parameter.data, before[name].double()) is not matrix, name
