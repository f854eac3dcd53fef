"""What marks a run as unstable, and what it is told to do."""

from __future__ import annotations

import random

import pytest

from bench.errors import UsageFault
from bench.host import stats
from bench.system import GpuState, SystemState

ROUNDS, CALLS, BACKENDS = 12, 10, 3
PROCESS = [number for number in range(ROUNDS) for _ in range(CALLS)]
# One of three backends: its processes are every third of the schedule.
ORDER = [1 + BACKENDS * number for number in PROCESS]

BEFORE = SystemState(
    uptime_s=1000.0,
    cores=4,
    load_1m=0.2,
    busy_s=500.0,
    own_s=1.0,
    steal_s=10.0,
    governors=("performance",),
    temperature_c=50.0,
    throttle_events=7,
)
# 100 s later, 200 of 400 core seconds of our own work.
AFTER = BEFORE.model_copy(update={"uptime_s": 1100.0, "busy_s": 705.0, "own_s": 201.0})


def samples(level: list[float] | None = None, noise: float = 0.01, seed: int = 1) -> list[float]:
    """Flat samples, ms: ``level`` is what each round takes."""
    draw = random.Random(seed)
    levels = level or [20.0] * ROUNDS
    return [levels[number] * draw.lognormvariate(0.0, noise) for number in PROCESS]


def reasons(
    taken: list[float], before: SystemState | None = None, after: SystemState | None = None
) -> list[str]:
    return stats.instability(taken, PROCESS, ORDER, before, after)


def the_reason(
    taken: list[float], before: SystemState | None = None, after: SystemState | None = None
) -> str:
    (found,) = reasons(taken, before, after)
    assert ";" in found, "a reason says what to do"
    return found


def test_a_quiet_run_on_an_idle_machine_is_stable() -> None:
    assert reasons(samples(), BEFORE, AFTER) == []
    assert reasons(samples()) == []


def test_quiet_runs_are_hardly_ever_marked() -> None:
    marked = sum(bool(reasons(samples(noise=0.03, seed=seed))) for seed in range(200))
    assert marked <= 4


def test_rounds_far_apart_are_named() -> None:
    draw = random.Random(2)
    found = the_reason(samples([20.0 * draw.choice((0.9, 1.15)) for _ in range(ROUNDS)]))
    assert found.startswith("spread: the middle half of 12 rounds")
    assert "more rounds" in found


def test_calls_far_apart_are_named_where_rounds_agree() -> None:
    taken = [20.0 if at % 3 else 40.0 for at in range(len(PROCESS))]
    assert the_reason(taken).startswith("spread: p10 is 20 ms but p90 40 ms")


def test_a_slow_governor_is_told_where_something_is_wrong_and_only_there() -> None:
    slow = BEFORE.model_copy(update={"governors": ("performance", "powersave")})
    assert reasons(samples(), slow, AFTER) == []
    taken = [20.0 if at % 3 else 40.0 for at in range(len(PROCESS))]
    found = the_reason(taken, slow, AFTER)
    assert "governor is powersave" in found
    assert "cpupower" in found


@pytest.mark.parametrize(
    ("slope", "said"), [(0.005, "5% slower"), (-0.005, "6% faster"), (-0.01, "12% faster")]
)
def test_a_drift_over_the_schedule_is_named(slope: float, said: str) -> None:
    found = the_reason(samples([20.0 * (1 + slope * at) for at in range(ROUNDS)], noise=0.001))
    assert found.startswith(f"drift: {said} from the first to the last of 12 rounds")
    assert ("warm-up" in found) == (slope < 0)


def test_a_drift_of_no_consequence_is_none() -> None:
    assert reasons(samples([20.0 * (1 + 0.001 * at) for at in range(ROUNDS)], noise=0.0001)) == []


def test_the_drift_follows_the_schedule_not_the_numbers_of_the_processes() -> None:
    level = [20.0 * (1 + 0.006 * at) for at in range(ROUNDS)]
    taken = samples(level, noise=0.001)
    # Told that its rounds ran in another order, the same figures are no drift any more.
    shuffled = [5, 0, 9, 3, 11, 7, 1, 10, 4, 8, 2, 6]
    order = [shuffled[number] for number in PROCESS]
    assert stats.instability(taken, PROCESS, order, None, None) == []
    assert "drift" in the_reason(taken)


def test_an_old_record_of_one_process_is_watched_for_a_drift_too() -> None:
    taken = [20.0 * (1 - 0.001 * at) for at in range(100)]
    (found,) = stats.instability(taken, None, None, None, None)
    assert "10 stretches of the only round" in found


def test_three_samples_prove_nothing() -> None:
    assert stats.instability([1.0, 2.0, 3.0], None, None, None, None) == []


def test_stolen_time_is_named() -> None:
    after = AFTER.model_copy(update={"steal_s": 10.0 + 0.05 * 400})
    assert the_reason(samples(), BEFORE, after).startswith("steal: the hypervisor gave 5%")


def test_other_processes_are_told_from_our_own() -> None:
    after = AFTER.model_copy(update={"busy_s": 500.0 + 200.0 + 80.0})
    found = the_reason(samples(), BEFORE, after)
    assert found.startswith("other load: other processes took 20% of the cores' time")


def test_where_the_shares_are_not_known_the_load_before_speaks() -> None:
    before = BEFORE.model_copy(update={"busy_s": None, "load_1m": 3.0})
    found = the_reason(samples(), before, AFTER)
    assert found.startswith("other load: the load was 3.0 on 4 cores before it began")
    assert reasons(samples(), before.model_copy(update={"load_1m": 1.9}), AFTER) == []
    # A run that was killed has no state after it.
    assert the_reason(samples(), before).startswith("other load")


def test_a_processor_that_slowed_down_is_named() -> None:
    after = AFTER.model_copy(update={"throttle_events": 19, "temperature_c": 97.0})
    found = the_reason(samples(), BEFORE, after)
    assert found.startswith("throttling: the processor slowed down 12 times to stay cool at 97 °C")


def test_gpus_that_are_held_down_or_taken_are_named() -> None:
    before = BEFORE.model_copy(update={"gpus": (GpuState(name="A GPU", busy=0.7),)})
    after = AFTER.model_copy(
        update={"gpus": (GpuState(name="A GPU", busy=1.0, throttled=("heat (hardware)",)),)}
    )
    busy, held = reasons(samples(), before, after)
    assert busy.startswith("other load: GPU 0 was 70% busy before it began")
    assert held.startswith("throttling: GPU 0 was held down by heat (hardware)")


def test_every_reason_comes_at_once() -> None:
    after = AFTER.model_copy(
        update={"steal_s": 100.0, "busy_s": 900.0, "throttle_events": 8, "temperature_c": None}
    )
    level = [20.0 * (1 + 0.05 * at) for at in range(ROUNDS)]
    kinds = [found.split(":")[0] for found in reasons(samples(level), BEFORE, after)]
    assert kinds == ["spread", "drift", "other load", "steal", "throttling"]


@pytest.mark.parametrize("field", ["uptime_s", "cores", "busy_s", "own_s", "steal_s"])
def test_what_a_machine_does_not_tell_is_no_reason(field: str) -> None:
    blind = {field: None}
    after = AFTER.model_copy(update=blind)
    assert reasons(samples(), BEFORE.model_copy(update=blind), after) == []
    assert reasons(samples(), SystemState(), SystemState()) == []


def test_a_machine_that_was_started_anew_between_is_no_reason() -> None:
    assert reasons(samples(), BEFORE, AFTER.model_copy(update={"uptime_s": 5.0})) == []


def test_damaged_columns_are_a_fault() -> None:
    with pytest.raises(UsageFault):
        stats.instability([1.0, 2.0], [0], None, None, None)
    with pytest.raises(UsageFault):
        stats.instability([1.0, 2.0], [0, 0], [0], None, None)
