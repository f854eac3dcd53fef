"""Tuning without a tuner: what is asked for, ranking, counts, the place of what is found."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageFault
from bench.host import launch, report, tune, tuned, tuning_curve
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.fake import FakeEngine
from bench.host.store import Store
from bench.job.tune import database, search
from bench.record import JobOutcome, JobSpec, RunRecord
from bench.tuning import (
    CURVE,
    OUTCOMES,
    VALID,
    Death,
    Trial,
    TunedTask,
    TuneSpec,
    Tuning,
    counted,
    is_flat,
    ranked,
    series,
)
from tests.unit import samples

TVM = "0.27.0+build-id.1"
TARGET: dict[str, Any] = {"mcpu": "haswell", "cores": 2}


def task(
    key: str, flops: float, weight: int = 1, product: bool = False, **also: object
) -> TunedTask:
    same = {"key": key, "name": f"kernel_{key}", "program": "forward", "flops": flops}
    return TunedTask.model_validate({**same, "weight": weight, "product": product, **also})


def trial(key: str, ms: float | None, at_s: float = 0.0, outcome: str | None = None) -> Trial:
    said = outcome or (VALID if ms is not None else "run error")
    return Trial.model_validate({"task": key, "outcome": said, "ms": ms, "at_s": at_s})


def tuning(**also: object) -> Tuning:
    tasks = [
        task("a", 2e6, 3, True, trials=2, valid=1, hand_ms=2.0, tuned_ms=1.0, used="tuned"),
        task("b", 1e6, 1, trials=1, hand_ms=0.5),
    ]
    trials = [trial("a", 1.1, 60), trial("a", None, 90), trial("b", None, 120, "build time-out")]
    return Tuning.model_validate(
        {
            **{"tvm": "0.27.0", "target": TARGET, "cost_model": "xgboost"},
            **{"database": "abc", "stopped": "budget", "budget_s": 1200, "elapsed_s": 1201},
            **{"counts": counted(trials), "tasks": tasks, "series": series(tasks, trials)},
            **{"hand_ms": 6.5, **also},
        }
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_a_budget_is_a_duration(text: str, expected: float) -> None:
    assert tune.seconds(text) == expected
    assert tune.spec_from(text, model="gpt-nano").budget_s == expected


@pytest.mark.parametrize("text", ["", "20", "m", "0s", "-5m", "20 m", "20m!", "2d", "nan", "20mm"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageFault, match="not a duration") as caught:
        tune.seconds(text)
    assert "--budget 20m" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "gpt5"}, "unknown model"),
        ({"mode": "encode"}, "is not for"),
        ({"seq_len": "4096"}, "over the block size"),
        ({"batch": "0"}, "--trials-per-turn"),
        ({"flat_trials": "none"}, "--flat-trials"),
        ({"timeout_s": "60"}, "within its budget"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageFault, match=said):
        tune.spec_from("20m", **options)


def test_a_bert_is_tuned_in_its_own_mode_and_the_time_out_is_after_the_budget() -> None:
    spec = tune.spec_from("20m", model="bert-base")
    assert spec.mode == "encode" and spec.timeout_s == 1200 + 900
    assert spec.recorded().kind == "tune" and spec.recorded().backends == ("tvm-tuned",)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e12), st.integers(1, 100), st.booleans()), min_size=1, max_size=20
    )
)
def test_matrix_products_come_first_and_then_what_computes_most(
    drawn: list[tuple[float, int, bool]],
) -> None:
    found = ranked(task(str(i), *one) for i, one in enumerate(drawn))
    assert len(found) == len(drawn)
    for before, after in itertools.pairwise(found):
        assert before.product >= after.product
        if before.product == after.product:
            assert before.flops * before.weight >= after.flops * after.weight


def test_a_task_is_flat_when_its_last_trials_gained_less_than_a_hundredth() -> None:
    fast, slow = trial("a", 1.0), trial("a", 2.0)
    assert not is_flat([fast, slow], 3)  # too few to say
    assert is_flat([fast, slow, slow, slow], 3)
    assert is_flat([fast, slow, slow, trial("a", 0.995)], 3)
    assert not is_flat([fast, slow, slow, trial("a", 0.98)], 3)
    assert not is_flat([slow, slow, fast], 3)  # the first valid one is no repetition
    assert is_flat([trial("a", None)] * 3, 3)  # none of them runs
    assert not is_flat([trial("a", None)] * 3 + [fast], 3)


@given(st.lists(st.sampled_from(OUTCOMES)))
def test_every_outcome_is_counted_apart(outcomes: list[str]) -> None:
    trials = [trial("a", 1.0 if one == VALID else None, outcome=one) for one in outcomes]
    found = counted(trials)
    assert tuple(found) == OUTCOMES and sum(found.values()) == len(outcomes)
    assert all(found[one] == outcomes.count(one) for one in OUTCOMES)


def test_the_series_is_weight_times_best_and_falls() -> None:
    tasks = [task("a", 1, 3, hand_ms=2.0), task("b", 1, 1, hand_ms=1.0)]
    trials = [trial("a", 1.0, 60), trial("b", 4.0, 120), trial("a", 3.0), trial("b", 0.5, 180)]
    points = series(tasks, trials)
    assert [(p.trials, p.tuned_ms, p.best_ms) for p in points] == [
        (1, None, 4.0),
        (2, 7.0, 4.0),
        (4, 3.5, 3.5),
    ]
    assert [p.minutes for p in points] == [1, 2, 3]


def test_a_place_is_by_tvm_and_target_and_a_digest_by_content(tmp_path: Path) -> None:
    place = database.of(tmp_path, TVM, TARGET)
    assert place.path.parent == tmp_path / "tuning"
    assert place.path == database.of(tmp_path, TVM, dict(TARGET)).path
    others = [
        database.of(tmp_path, "0.26.0", TARGET),
        database.of(tmp_path, TVM, {**TARGET, "cores": 4}),
    ]
    assert len({place.path, *(one.path for one in others)}) == 3
    place.prepare()
    assert json.loads((place.path / "key.json").read_text()) == {"tvm": TVM, "target": TARGET}
    with pytest.raises(database.NotTuned, match="nothing is tuned for gpt2 prefill") as caught:
        place.read("p", JobSpec())
    assert "invoke tune --model gpt2 --mode prefill" in str(caught.value.hint)
    digests = []
    for ms in (1.0, 2.0, 1.0):
        entries: dict[str, dict[str, Any]] = {
            "a": {"hand_ms": ms, "trace": [[], []]},
            "b": {"hand_ms": ms},
        }
        database.write_best(place.program("p"), entries)
        best = place.read("p", JobSpec())
        digests.append(best.digest)
        assert best.traces == {"a": [[], []]}
    assert digests[0] == digests[2] != digests[1]
    (place.program("p") / "best.json").write_text("{half")
    with pytest.raises(database.Damaged, match=r"best\.json: JSONDecodeError"):
        place.read("p", JobSpec())


@given(
    st.lists(st.sampled_from(['["a"]', "[1, 2]"]), max_size=5), st.sampled_from(["", '["ha', "[1]"])
)
def test_a_line_that_a_killed_writer_left_is_cut_off(lines: list[str], rest: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        path.write_text("".join(f"{line}\n" for line in lines) + rest)
        cut = database.repair(path)
        left = path.read_text()
        assert left == "".join(f"{line}\n" for line in [*lines, *([rest] if rest == "[1]" else [])])
        assert cut == (len(rest) if rest == '["ha' else 0)


def test_trials_are_read_again_but_for_half_a_line(tmp_path: Path) -> None:
    for one in (trial("a", 1.5, 2.0), trial("b", None, 3.0, "build error")):
        database.append_trial(tmp_path, one)
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"task": "a", "outco')
    assert database.read_trials(tmp_path) == [
        trial("a", 1.5, 2.0),
        trial("b", None, 3.0, "build error"),
    ]


def test_a_trial_after_half_a_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    database.append_trial(tmp_path, trial("a", 1.5, 2.0))
    path.write_bytes(path.read_bytes() + b'{"task": "a", "outco')
    database.repair(path)
    database.append_trial(tmp_path, trial("a", 1.0, 3.0))
    assert database.read_trials(tmp_path) == [trial("a", 1.5, 2.0), trial("a", 1.0, 3.0)]


def test_a_damaged_line_among_the_trials_is_told(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text('{"task": "a"}\n')
    with pytest.raises(database.Damaged, match=r"trials\.jsonl"):
        database.read_trials(tmp_path)


def test_a_store_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    place = database.of(tmp_path, TVM, TARGET)
    with pytest.raises(UsageFault, match="cannot lock"), place.lock():
        raise AssertionError("nobody may write here")


def test_one_run_at_a_time_writes_a_database(tmp_path: Path) -> None:
    place = database.of(tmp_path, TVM, TARGET)
    code = (
        "import pathlib, sys, time\nfrom bench.job.tune import database\n"
        "with database.Database(pathlib.Path(sys.argv[1]), {}).lock():\n"
        "    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(place.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UsageFault, match="another run is tuning"), place.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with place.lock():  # the kernel freed it
        pass


def test_orders_are_read_as_they_were_written(tmp_path: Path) -> None:
    orders = search.Orders(12.5, None, ("a",))
    orders.write(tmp_path / "orders.json")
    assert search.Orders.read(tmp_path / "orders.json") == orders


def test_the_store_counts_what_tuning_found_and_never_makes_room_of_it(tmp_path: Path) -> None:
    place = database.of(tmp_path, TVM, TARGET)
    place.prepare()
    (place.path / "database_tuning_record.json").write_bytes(b"x" * 5000)
    os.utime(place.path, (1, 1))
    (tmp_path / "lib" / "k").mkdir(parents=True)
    (tmp_path / "lib" / "k" / "lib.so").write_bytes(b"x" * 1000)
    store = Store(tmp_path, limit_bytes=5500)
    assert store.tuning_bytes() > 5000 and store.size_bytes() == store.tuning_bytes() + 1000
    assert [path.name for path in store.trim()] == ["k"]
    assert store.trim() == [] and store.clear() == 0
    assert (place.path / "database_tuning_record.json").is_file()
    assert store.clear_tuning() > 5000 and store.tuning_bytes() == 0


def run_record(**also: object) -> RunRecord:
    spec = TuneSpec(model="gpt-nano").recorded()
    plain = samples.record().model_copy(update={"spec": spec, "results": []})
    return plain.model_copy(update={"tuning": tuning(**also)})


def test_a_report_tells_ratio_failures_deaths_and_the_gain() -> None:
    death = Death(reason="killed by SIGKILL", trials=2)
    record = run_record(deaths=[death], trials_before=1, cost_model="random")
    said = "\n".join(report.sentences(record))
    assert "3 trials (1 of them in earlier runs), 33% valid" in said
    assert "1 build time-outs, 1 run errors" in said
    assert "died after 2 trials, which are kept: killed by SIGKILL" in said
    assert "hand-written 6.500 ms, with 1 of 2 kernels tuned 3.500 ms (1.86x)" in said
    assert "xgboost is not installed" in said
    page = report.markdown(record)
    assert "| kernel\\_a | tuned | 3 | 2 | 1 / 2 | 2.0000 | 1.0000 | 2.00x |" in page
    assert len({row.count(" | ") for row in map(" | ".join, tuned.table(tuning()))}) == 1


def test_the_curve_says_in_words_what_it_shows() -> None:
    record = run_record()
    svg = tuning_curve.drawn(record)
    assert svg == tuning_curve.drawn(record)
    assert "<desc" in svg and "The hand-written kernels come to 6.500 ms." in svg
    assert "for want of a valid trial" in svg  # kernel b has none
    assert ">minutes<" in svg and ">trials<" in svg


def test_a_run_is_published_with_its_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that cannot be drawn is told of only, so that somebody has to look for it."""

    def script(at: Launch, _: OnLine) -> Ending:
        outcome = JobOutcome(environment=samples.environment(), tuning=tuning(), finished=True)
        (at.run_dir / "outcome.json").write_text(outcome.model_dump_json())
        return Ending("exited", exit_code=0)

    spec, store = TuneSpec(model="gpt-nano"), Store(tmp_path / "store", limit_bytes=2**20)
    record, path = launch.run(spec, FakeEngine(script), None, tmp_path / "out", store)
    assert record.status == "ok" and record.tuning == tuning()
    assert (path / CURVE).read_text().rstrip().endswith("</svg>")
    assert "no curve was drawn" not in capsys.readouterr().err
