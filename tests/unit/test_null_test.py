"""The null test's bookkeeping: what it plants, what it counts, and when it has failed."""

from __future__ import annotations

import os

import pytest

from benchmarks import null_test
from benchmarks.null_test import Comparison


def comparison(planted: float, verdict: str) -> Comparison:
    return Comparison(planted, 1.0, 0.98, 1.02, verdict, False, [1.0], [1.0])


def found(null: int, ten: int, three: int) -> list[Comparison]:
    """200 null comparisons of which ``null`` find something; of 20 planted ones, so many."""
    said = {0.0: (null, 200), 0.10: (ten, 20), 0.03: (three, 20)}
    return [
        comparison(planted, "slower" if number < right else "no difference shown")
        for planted, (right, of) in said.items()
        for number in range(of)
    ]


@pytest.mark.parametrize(("comparisons", "planted"), [(200, 20), (20, 20), (3, 5), (10, 0)])
def test_all_is_planted_and_spread_among_the_null_ones(comparisons: int, planted: int) -> None:
    plan = list(null_test.schedule(comparisons, planted))
    assert plan.count(0.0) == comparisons
    assert plan.count(0.10) == plan.count(0.03) == planted
    if comparisons == 200:
        half = plan[: len(plan) // 2]
        assert half.count(0.10) == pytest.approx(planted / 2, abs=1)


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ((6, 20, 11), True),
        ((0, 20, 20), True),
        ((7, 20, 11), False),  # cried wolf too often
        ((6, 19, 11), False),  # missed one of 10%
        ((6, 20, 10), False),  # half is not most
    ],
)
def test_the_promises_are_held(counts: tuple[int, int, int], kept: bool) -> None:
    assert null_test.passed(found(*counts)) is kept


def test_faster_for_the_same_is_a_wolf_and_for_more_work_a_miss() -> None:
    wolves = [comparison(0.0, "faster")] * 7 + found(0, 20, 20)
    assert not null_test.passed(wolves[:200])
    assert not null_test.passed([comparison(0.10, "faster")])


def test_the_summary_counts_each_kind() -> None:
    lines = null_test.summary(found(2, 20, 13))
    assert [line.split(":")[0] for line in lines] == ["planted 0%", "planted 10%", "planted 3%"]
    assert "200 comparisons, 2 slower, 0 faster" in lines[0]
    assert "20 comparisons, 13 slower" in lines[2]


def test_what_was_recorded_can_be_cut_into_shorter_comparisons() -> None:
    whole = Comparison(0.1, 1.1, 1.0, 1.2, "slower", True, [1.0] * 30, [1.0] * 20 + [1.1] * 10)
    parts = null_test.cut(whole, 10)
    assert [part.verdict for part in parts] == ["no difference shown"] * 2 + ["slower"]
    assert all(len(part.base) == 10 and part.planted == 0.1 for part in parts)
    assert null_test.cut(whole, 20)[0].base == [1.0] * 20
    assert len(null_test.cut(whole, 20)) == 1  # what is left over is no whole comparison


def test_it_can_be_pinned_and_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    mine = os.sched_getaffinity(0)
    last = max(mine)
    options = ["--comparisons", "1", "--planted", "0", "--rounds", "4", "--samples", "2"]
    try:
        null_test.main([*options, "--units", "500", "--pin", str(last)])
    finally:
        os.sched_setaffinity(0, mine)
    assert f"of which {last}\n" in capsys.readouterr().out
    for wrong in (str(last + 1000), "a"):
        with pytest.raises(SystemExit) as caught:
            null_test.main([*options, "--pin", wrong])
        assert caught.value.code == 2
        assert f"{wrong}" in capsys.readouterr().err
    assert os.sched_getaffinity(0) == mine


def test_a_comparison_for_real_is_whole() -> None:
    one = null_test.compare(planted=0.5, rounds=2, samples=3, units=2000)
    assert len(one.base) == len(one.new) == 2
    assert one.verdict == "too few rounds"
    assert one.low < one.estimate < one.high
