"""The three forms of causal attention are one function, and it is causal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.job import attention

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 8))
Sizes = tuple[int, int, int, int]


def drawn(sizes: Sizes, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(sizes, generator=generator, dtype=torch.float64) for _ in range(3))
    return q, k, v


@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_one_product_with_a_triangle_is_the_running_mean(sizes: Sizes, seed: int) -> None:
    _, _, x = drawn(sizes, seed)
    x = x[:, 0]  # (B, T, C)
    torch.testing.assert_close(attention.lower_triangular(x), attention.running_mean(x))


@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_masked_softmax_of_equal_scores_is_the_running_mean(sizes: Sizes, seed: int) -> None:
    q, k, v = drawn(sizes, seed)
    expected = attention.running_mean(v[:, 0])
    found = attention.masked_softmax(torch.zeros_like(q), k, v)
    torch.testing.assert_close(found[:, 0], expected)


@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_the_fused_kernel_is_masked_softmax(sizes: Sizes, seed: int) -> None:
    q, k, v = drawn(sizes, seed)
    torch.testing.assert_close(attention.fused(q, k, v), attention.masked_softmax(q, k, v))


def test_the_averaging_weights_are_rows_of_equal_shares() -> None:
    expected = torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(attention.averaging_weights(3), expected)


@pytest.mark.parametrize("form", [attention.masked_softmax, attention.fused])
def test_a_position_sees_itself_and_what_is_before_it_alone(
    form: Callable[..., torch.Tensor],
) -> None:
    q, k, v = drawn((2, 2, 6, 4), seed=1)
    before = form(q, k, v)
    k[:, :, 4] += 1
    v[:, :, 4] += 1
    after = form(q, k, v)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.isclose(before[:, :, 4:], after[:, :, 4:]).all(dim=-1).any()
