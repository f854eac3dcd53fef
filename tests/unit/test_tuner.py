"""When a tuner stops, which of two kernels it takes, and how often it may die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.job.compile import meta, tasks
from bench.job.compile.importer import import_module
from bench.job.compile.meta import Search, Tried
from bench.job.compile.pipelines import to_kernels
from bench.job.compile.target import detect_cpu
from bench.job.stopping import Stop
from bench.job.tune import compare, database, search, supervise
from bench.job.tune.search import Orders, Tuner
from bench.tuning import VALID, TunedTask, TuneSpec
from tests.unit.test_tuning import task, trial

NEVER = 1e6  # seconds


class Found:
    """A search whose candidates all take as long, of which there may be an end."""

    def __init__(self, left: int = 1000, best: tuple[float, Any] | None = None) -> None:
        self.left, self._best = left, best

    def turn(self, _: object) -> Iterator[Tried]:
        for _turn in range(min(2, self.left)):
            self.left -= 1
            yield Tried(VALID, 1.0)

    def best(self, _: object) -> tuple[float, Any] | None:
        return self._best


def tuner(folder: Path, orders: Orders, rows: list[TunedTask], found: Found) -> Tuner:
    """A tuner of these tasks that has measured nothing yet."""
    one = Tuner.__new__(Tuner)
    same: dict[str, Any] = {"hand": "ours", "mod": "plain"}
    vars(one).update(
        began=time.monotonic(), spec=TuneSpec(flat_trials=3), orders=orders, scratch=folder,
        rows=rows, tasks={row.key: SimpleNamespace(**same) for row in rows}, trials=[], done=0,
        before_s=0.0, log=folder, search=found, best={}, sources="now", programs={},
        target=SimpleNamespace(tvm=lambda: None),
    )  # fmt: skip
    return one


ROWS = [task("a", 2e6, 1, True), task("b", 1e6)]


@pytest.mark.parametrize(
    ("orders", "rows", "left", "why", "trials"),
    [
        (Orders(NEVER, None), ROWS, 1000, "flat", {"a": 4, "b": 4}),  # three, by turns of two
        (Orders(NEVER, 3), ROWS, 1000, "trials", {"a": 2, "b": 1}),
        (Orders(0.0, None), ROWS, 1000, "budget", {}),
        (Orders(NEVER, None), [], 1000, "nothing to tune", {}),
        (Orders(NEVER, None), ROWS, 0, "flat", {}),  # all candidates were tried before
        (Orders(NEVER, None, ("a",)), ROWS, 1000, "flat", {"b": 4}),
    ],
)
def test_it_stops_when_all_is_flat_or_the_budget_is_spent(
    orders: Orders, rows: list[TunedTask], left: int, why: str, trials: dict[str, int],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Tuner, "_compare", lambda *_: None)
    assert tuner(tmp_path, orders, rows, Found(left)).run() == why
    kept = database.read_trials(tmp_path)
    assert {key: [one.task for one in kept].count(key) for key in ("a", "b")} == {
        "a": 0, "b": 0, **trials
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hand", "tuned", "same", "taken"),
    [(1.0, 0.96, True, True), (1.0, 0.98, True, False), (1.0, 0.5, False, False)],
)
def test_a_tuned_kernel_is_taken_if_it_is_faster_by_the_margin_and_computes_the_same(
    hand: float, tuned: float, same: bool, taken: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Bench:
        def __init__(self, kernel: object) -> None:
            assert kernel == "ours"

        def call(self, kernel: object, _: object) -> object:
            return kernel

        def output(self, call: object) -> np.ndarray:
            return np.ones(3, np.float32) * (1 if same or call == "ours" else 2)

    monkeypatch.setattr(compare, "Bench", Bench)
    monkeypatch.setattr(compare, "in_turns", lambda *_: [hand, tuned])
    monkeypatch.setattr(tasks, "scheduled", lambda *_: "theirs")
    one = tuner(tmp_path, Orders(NEVER, None), ROWS, Found(best=(0.4, "a trace")))
    one._compare(ROWS[0])
    entry = one.best["a"]
    assert (entry["hand_ms"], entry["tuned_ms"], entry["search_ms"]) == (hand, tuned, 0.4)
    assert entry.get("trace") == ("a trace" if taken else None)


def supervised(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[int, int, str]]
) -> tuple[supervise._Supervisor, list[tuple[str, ...]]]:
    """A supervisor whose tuners end so: trials each adds, its exit code, the task it was at.

    And what each was told to leave alone.
    """
    one = supervise._Supervisor(TuneSpec(budget_s=NEVER), folder, Stop())
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        supervise._Supervisor, "_read_plan", lambda self: self.plan.update(log=str(folder))
    )
    left = iter(ends)

    def run(self: supervise._Supervisor) -> int:
        told.append(self._given_up())
        more, code, at = next(left)
        for _ in range(more):
            database.append_trial(folder, trial(at, 1.0, 1.0))
        (folder / search.AT).write_text(at)
        if code == 0:
            (folder / search.ENDED).write_text("flat")
        return code

    monkeypatch.setattr(supervise._Supervisor, "_tuner", run)
    return one, told


def test_a_task_that_a_tuner_died_of_twice_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [(1, -11, "a"), (1, -11, "b"), (1, -11, "a"), (1, 0, "b")]
    one, told = supervised(tmp_path, monkeypatch, ends)
    assert one._until_over() == ("flat", None)
    assert told == [(), (), (), ("a",)]
    assert [death.task for death in one.deaths] == ["a", "b", "a"]
    assert [death.trials for death in one.deaths] == [1, 2, 3]


def test_three_deaths_in_a_row_without_a_trial_are_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [(0, 1, "a"), (0, 1, "b"), (1, 1, "c"), (0, 1, "d"), (0, 1, "e"), (0, 1, "f")]
    one, told = supervised(tmp_path, monkeypatch, ends)
    stopped, reason = one._until_over()
    assert stopped == "tuner died" and "3 times in a row" in str(reason)
    assert len(told) == 6


def refuse(*_: object) -> None:
    raise ValueError("not today")


def smallest(folder: Path) -> tuple[Search, tasks.Task]:
    """A real search, and a task that builds fast."""
    target = detect_cpu(1)
    mod = import_module(torch.nn.Softmax(-1), (torch.zeros(3, 19),)).mod
    (only,), _ = tasks.extract(to_kernels(mod, target), target)
    return Search(folder, target.tvm(), 1, 2, 0), only


@pytest.mark.parametrize(
    ("change", "outcome", "said"),
    [
        (("BUILD_TIMEOUT_S", 0.001), "build time-out", "Timeout"),
        (("RUN_TIMEOUT_S", 0.001), "run time-out", "Timeout"),
        (("building.build", refuse), "build error", "not today"),
    ],
)
def test_what_tvm_says_of_a_failure_is_counted_as_what_it_is(
    change: tuple[str, Any], outcome: str, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(f"bench.job.compile.meta.{change[0]}", change[1])
    searched, only = smallest(tmp_path)
    tried = list(searched.turn(only))
    assert len(tried) == 2 and searched.best(only) is None
    for one in tried:
        assert (one.outcome, one.ms) == (outcome, None)
        assert said in str(one.said)


def test_a_candidate_that_builds_and_runs_is_valid(tmp_path: Path) -> None:
    searched, only = smallest(tmp_path)
    tried = list(searched.turn(only))
    assert {one.outcome for one in tried} == {VALID} and searched.best(only) is not None
    assert meta.BUILD_TIMEOUT_S > 30 and all(one.ms for one in tried)
