"""Whether a series goes anywhere, by ranks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import trend


def test_a_straight_line_rises_by_all_it_gains() -> None:
    seen = trend.of([100.0 + step for step in range(11)])
    assert seen.change == pytest.approx(10 / 105)
    # S is all 55 pairs less the correction, over sqrt(n (n-1) (2n+5) / 18).
    assert seen.z == pytest.approx(54 / (11 * 10 * 27 / 18) ** 0.5)


@given(st.lists(st.floats(min_value=1.0, max_value=1e6), min_size=3, max_size=20))
def test_backwards_it_is_the_opposite(values: list[float]) -> None:
    forwards, backwards = trend.of(values), trend.of(values[::-1])
    assert backwards.z == pytest.approx(-forwards.z)
    assert backwards.change == pytest.approx(-forwards.change)


def test_outliers_do_not_bend_it() -> None:
    values = [100.0 + step for step in range(20)]
    bent = [*values[:5], 5000.0, *values[6:]]
    assert trend.of(bent).change == pytest.approx(trend.of(values).change, rel=0.05)


def test_noise_without_a_trend_is_as_rarely_sure_as_it_should_be() -> None:
    draw = random.Random(1)
    scores = [trend.of([draw.gauss(100, 5) for _ in range(12)]).z for _ in range(2000)]
    sure = sum(abs(score) > 2.576 for score in scores)
    assert 2 <= sure <= 40  # 20 of 2,000 are to be expected


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [0.0] * 9, [3.0] * 9])
def test_where_there_is_none_to_tell_there_is_none(values: list[float]) -> None:
    assert trend.of(values) == trend.Trend(0.0, 0.0)


def test_ties_are_no_evidence() -> None:
    # Two levels: fewer pairs speak, and the score is what they say.
    step = trend.of([1.0] * 5 + [2.0] * 5)
    line = trend.of([float(value) for value in range(1, 11)])
    assert 2.0 < step.z < line.z
