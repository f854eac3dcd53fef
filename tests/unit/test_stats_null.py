"""The null test on synthetic samples: what the verdicts say of a machine whose truth is known.

``benchmarks/null_test.py`` is the same for real. Here every draw is seeded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from bench.host import stats


@dataclass(frozen=True)
class Machine:
    """A machine's noise, as shares of the time of a call.

    ``process`` is what a process keeps for life (layout, placement), ``call`` what each call has
    of its own, ``drift`` how the whole machine wanders from round to round. One call in
    ``outlier`` takes up to three times as long.
    """

    process: float
    call: float
    drift: float
    outlier: int


QUIET = Machine(process=0.01, call=0.01, drift=0.002, outlier=50)
BUSY = Machine(process=0.02, call=0.06, drift=0.02, outlier=10)


def run(
    machine: Machine, draw: random.Random, factor: float, rounds: int = 10
) -> list[list[float]]:
    """[base, new], each flat samples of 15 calls a round, ms; interleaved on a drifting machine."""
    sides: list[list[float]] = [[], []]
    level = 1.0
    for _ in range(rounds):
        for side, true in ((0, 20.0), (1, 20.0 * factor)):
            level *= draw.lognormvariate(0.0, machine.drift / 2)
            kept = draw.lognormvariate(0.0, machine.process)
            for _ in range(15):
                ms = true * level * kept * draw.lognormvariate(0.0, machine.call)
                slowed = draw.randrange(machine.outlier) == 0
                sides[side].append(ms * draw.uniform(1.2, 3.0) if slowed else ms)
    return sides


def verdicts(machine: Machine, factor: float, comparisons: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    process = [number for number in range(10) for _ in range(15)]
    found: list[str] = []
    for _ in range(comparisons):
        base, new = (stats.round_medians(side, process) for side in run(machine, draw, factor))
        found.append(stats.verdict(stats.paired_ratio(base, new)))
    return found


@pytest.mark.parametrize("machine", [QUIET, BUSY], ids=["quiet", "busy"])
def test_the_same_against_itself_is_seldom_told_apart(machine: Machine) -> None:
    found = verdicts(machine, 1.0, comparisons=200, seed=1)
    assert found.count("no difference shown") >= 194
    assert "too few rounds" not in found


@pytest.mark.parametrize("machine", [QUIET, BUSY], ids=["quiet", "busy"])
def test_ten_percent_more_is_always_found(machine: Machine) -> None:
    assert verdicts(machine, 1.10, comparisons=20, seed=2) == ["slower"] * 20


def test_ten_percent_less_is_always_found() -> None:
    assert verdicts(QUIET, 1 / 1.10, comparisons=20, seed=3) == ["faster"] * 20


def test_three_percent_is_mostly_found_on_a_quiet_machine() -> None:
    found = verdicts(QUIET, 1.03, comparisons=20, seed=4)
    assert found.count("slower") > 10
    assert "faster" not in found


def test_half_a_percent_is_not_worth_a_verdict() -> None:
    still = Machine(process=0.0005, call=0.001, drift=0.0, outlier=1000)
    assert verdicts(still, 1.005, comparisons=20, seed=5) == ["no difference shown"] * 20


def test_calls_as_the_unit_would_cry_wolf() -> None:
    """Why the unit is the round: one process a side, its 15 calls taken for evidence, tells the
    same apart from itself far more often than the hundredth time that it promises."""
    draw = random.Random(6)
    wolves = 0
    for _ in range(200):
        base, new = run(QUIET, draw, 1.0, rounds=1)
        ratio = stats.paired_ratio(base, new)
        wolves += stats.verdict(ratio) in ("slower", "faster")
    assert wolves > 20  # two are to be expected at 99%; with other seeds about fifty were seen
