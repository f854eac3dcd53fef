"""Medians of rounds, their intervals, paired ratios and the verdicts on them."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon  # type: ignore[import-untyped]

from bench.errors import UsageFault
from bench.host import stats
from bench.host.stats import Ratio

TIMES = st.floats(min_value=1e-3, max_value=1e6)
ROUNDS = st.lists(TIMES, min_size=2, max_size=30)


def test_a_round_is_what_one_process_took() -> None:
    samples = [1.0, 5.0, 3.0, 30.0, 10.0, 20.0]
    assert stats.round_medians(samples, [0, 0, 0, 1, 1, 1]) == [3.0, 20.0]


def test_rounds_come_by_their_number_however_the_samples_lie() -> None:
    assert stats.round_medians([7.0, 1.0, 9.0, 3.0], [1, 0, 1, 0]) == [2.0, 8.0]


def test_an_old_record_is_one_round() -> None:
    assert stats.round_medians([4.0, 1.0, 2.0], None) == [2.0]


def test_samples_and_their_rounds_are_of_one_length() -> None:
    with pytest.raises(UsageFault, match="3 samples, but 2 numbers"):
        stats.round_medians([1.0, 2.0, 3.0], [0, 0])


def test_no_sample_is_a_fault_not_a_figure() -> None:
    with pytest.raises(UsageFault, match="no sample"):
        stats.round_medians([], None)
    with pytest.raises(UsageFault, match="no round"):
        stats.median_interval([])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_the_interval_is_that_of_every_resample_counted(n: int) -> None:
    values = [2.0, 3.0, 5.0, 7.0, 11.0][:n]
    medians = sorted(statistics.median(drawn) for drawn in itertools.product(values, repeat=n))
    tail = 0.025 * len(medians)
    found = stats.median_interval(values)
    # The least value with more than the tail at or below it, and its mirror image.
    assert found.low == medians[math.floor(tail)]
    assert found.high == medians[-1 - math.floor(tail)]
    assert found.estimate == statistics.median(values)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_of_an_even_number_the_interval_is_at_least_that_wide(n: int) -> None:
    values = [2.0, 3.0, 5.0, 7.0, 11.0, 13.0][:n]
    medians = sorted(statistics.median(drawn) for drawn in itertools.product(values, repeat=n))
    tail = math.floor(0.025 * len(medians))
    found = stats.median_interval(values)
    assert found.low <= medians[tail] <= medians[-1 - tail] <= found.high


def test_of_ten_rounds_the_second_and_the_ninth_are_the_bounds() -> None:
    # P(at least 5 of 10 draws are the least) is 0.16%, of the two least 3.3%.
    found = stats.median_interval([float(value) for value in range(1, 11)])
    assert (found.low, found.estimate, found.high) == (2.0, 5.5, 9.0)


def test_a_lower_confidence_gives_a_narrower_interval() -> None:
    values = [float(value) for value in range(1, 31)]
    wide, narrow = (stats.median_interval(values, confidence) for confidence in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    draw = random.Random(6)
    held = 0
    for _ in range(1000):
        found = stats.median_interval([draw.lognormvariate(0.0, 0.3) for _ in range(10)])
        held += found.low <= 1.0 <= found.high
    assert held >= 950


def test_many_values_are_no_trouble() -> None:
    found = stats.median_interval([float(value) for value in range(20_001)])
    assert found.low < found.estimate == 10_000.0 < found.high
    # About two standard errors of a median's rank, sqrt(n) / 2.
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(20_001) / 2, rel=0.05)


@given(ROUNDS)
def test_the_interval_holds_its_estimate_and_lies_among_the_values(values: list[float]) -> None:
    found = stats.median_interval(values)
    assert min(values) <= found.low <= found.estimate <= found.high <= max(values)


def test_the_ratio_is_the_signed_rank_interval_of_the_logarithms() -> None:
    logs = [0.01 * step * step for step in range(10)]
    found = stats.paired_ratio([100.0] * 10, [100.0 * math.exp(step) for step in logs])
    means = sorted((logs[i] + logs[j]) / 2 for i in range(10) for j in range(i, 10))
    assert found.rounds == 10
    assert math.log(found.estimate) == pytest.approx(statistics.median(means))
    # The critical value of ten pairs at 1%, two-sided, is 3 in every table.
    assert math.log(found.low) == pytest.approx(means[3])
    assert math.log(found.high) == pytest.approx(means[-4])


@pytest.mark.parametrize(("n", "critical"), [(8, 0), (10, 3), (15, 15), (20, 37), (30, 109)])
def test_critical_values_are_those_of_the_tables(n: int, critical: int) -> None:
    assert stats._outside(n, 0.005) == critical  # Wilcoxon and Wilcox, 1964


def test_the_approximation_joins_what_is_counted() -> None:
    n = stats._COUNTED
    counted, approximated = stats._outside(n, 0.005), stats._outside(n + 1, 0.005)
    assert counted is not None and approximated is not None
    # One more rank of a hundred moves the bound by half its size, less what the spread grows.
    assert 0 < approximated - counted < n / 2


def test_the_interval_agrees_with_scipys_test() -> None:
    draw = random.Random(7)
    for _ in range(50):
        logs = [draw.gauss(0.02, 0.03) for _ in range(12)]
        found = stats.paired_ratio([1.0] * 12, [math.exp(step) for step in logs])
        excluded = found.low > 1 or found.high < 1
        assert excluded == (wilcoxon(logs, method="exact").pvalue <= 0.01)


def test_a_burst_in_one_round_does_not_hide_a_difference() -> None:
    draw = random.Random(3)
    base = [draw.gauss(100.0, 1.0) for _ in range(30)]
    new = [draw.gauss(105.0, 1.0) for _ in range(30)]
    new[4] /= 1.6
    base[17] *= 1.7
    assert stats.verdict(stats.paired_ratio(base, new)) == "slower"


def test_fewer_pairs_than_the_confidence_needs_bound_nothing() -> None:
    found = stats.paired_ratio([1.0] * 7, [2.0] * 7)
    assert (found.low, found.high) == (0.0, math.inf)
    assert found.estimate == pytest.approx(2.0)


@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_other_way_round_it_is_one_over(base: list[float], draw: random.Random) -> None:
    new = [value * draw.uniform(0.5, 2.0) for value in base]
    one, other = stats.paired_ratio(base, new), stats.paired_ratio(new, base)
    assert other.estimate == pytest.approx(1 / one.estimate)
    assert other.low == pytest.approx(1 / one.high)
    assert other.high == pytest.approx(1 / one.low if one.low else math.inf)


@given(ROUNDS, st.randoms(use_true_random=False))
def test_what_slows_both_of_a_pair_falls_out(base: list[float], draw: random.Random) -> None:
    new = [value * draw.uniform(0.5, 2.0) for value in base]
    drift = [draw.uniform(0.1, 10.0) for _ in base]
    steady = stats.paired_ratio(base, new)
    drifting = stats.paired_ratio(
        [value * factor for value, factor in zip(base, drift, strict=True)],
        [value * factor for value, factor in zip(new, drift, strict=True)],
    )
    assert drifting.low == pytest.approx(steady.low)
    assert drifting.estimate == pytest.approx(steady.estimate)


def test_rounds_that_one_side_lacks_are_left_out() -> None:
    found = stats.paired_ratio([1.0, 1.0, 1.0], [2.0, 2.0])
    assert found.rounds == 2
    assert found.estimate == pytest.approx(2.0)


def test_one_pair_knows_no_bounds() -> None:
    found = stats.paired_ratio([1.0], [3.0])
    assert (found.low, found.high) == (0.0, math.inf)
    assert stats.verdict(found) == "too few rounds"


@pytest.mark.parametrize(
    ("base", "new", "said"),
    [([], [1.0], "no round that both"), ([1.0, 0.0], [1.0, 1.0], "0 ms"), ([1.0], [0.0], "0 ms")],
)
def test_what_has_no_ratio_is_a_fault(base: list[float], new: list[float], said: str) -> None:
    with pytest.raises(UsageFault, match=said) as caught:
        stats.paired_ratio(base, new)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Ratio(1.05, 1.02, 1.08, 10), "slower"),
        (Ratio(0.95, 0.92, 0.98, 10), "faster"),
        (Ratio(1.05, 0.99, 1.11, 10), "no difference shown"),
        (Ratio(0.95, 0.89, 1.01, 10), "no difference shown"),
        # Sure, and too small to matter.
        (Ratio(1.005, 1.004, 1.006, 10), "no difference shown"),
        (Ratio(0.995, 0.994, 0.996, 10), "no difference shown"),
        (Ratio(1.0, 1.0, 1.0, 10), "no difference shown"),
        # Large, and not sure.
        (Ratio(3.0, 2.9, 3.1, 9), "too few rounds"),
    ],
)
def test_a_verdict_needs_rounds_certainty_and_size(ratio: Ratio, said: str) -> None:
    assert stats.verdict(ratio) == said


def test_the_least_effect_is_the_callers() -> None:
    ratio = Ratio(1.04, 1.03, 1.05, 10)
    assert stats.verdict(ratio, least_effect=0.05) == "no difference shown"
    assert stats.verdict(ratio, least_effect=0.03) == "slower"
