"""Rounds: fresh processes interleaved, their samples kept apart, a failure in any of them told."""

from __future__ import annotations

from pathlib import Path

from bench.host import launch, stats
from bench.host.engine.local import LocalEngine
from bench.host.store import Store
from bench.job import rounds
from bench.record import JobSpec
from tests.unit.samples import result


def test_backends_take_turns_and_the_slow_before_only_three() -> None:
    spec = JobSpec(rounds=5, backends=("torch-eager", "tvm-none", "tvm-optimized"))
    order = rounds.schedule(spec)
    assert order[:6] == [
        (0, "torch-eager"), (0, "tvm-none"), (0, "tvm-optimized"),
        (1, "torch-eager"), (1, "tvm-none"), (1, "tvm-optimized"),
    ]  # fmt: skip
    assert [n for n, name in order if name == "tvm-none"] == [0, 1, 2]
    assert [n for n, name in order if name == "tvm-optimized"] == [0, 1, 2, 3, 4]


def test_a_failure_in_a_later_round_takes_the_figures_away() -> None:
    good = rounds.numbered(result("torch-eager", 5.0), 0, 0)
    bad = result("torch-eager", 5.0).model_copy(
        update={"status": "failed", "reason": "outputs disagree", "latency_ms": None}
    )
    row = rounds.joined(good, bad)
    assert (row.status, row.latency_ms, row.tokens_per_s) == ("failed", None, None)
    assert row.reason == "in a later round: outputs disagree"


def test_a_run_of_rounds_for_real(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    spec = JobSpec(
        model="gpt-nano", seq_len=8, rounds=3, repeats=12, backends=("torch-eager", "tvm-optimized")
    )
    record, _ = launch.run(
        spec, LocalEngine(), None, tmp_path / "out", Store(tmp_path / "store", 2**30)
    )
    assert record.status == "ok"
    for place, row in enumerate(record.results):
        latency = row.latency_ms
        assert latency is not None and len(latency.samples) == 12
        assert latency.process == [0] * 4 + [1] * 4 + [2] * 4
        assert latency.order == [place] * 4 + [place + 2] * 4 + [place + 4] * 4
        assert len(stats.round_medians(latency.samples, latency.process)) == 3
        assert row.warmup_calls is not None and len(row.warmup_calls) == 3
        assert row.parity is not None and row.parity.calls == 3
    where = record.environment
    assert where is not None and where.before is not None and where.after is not None
    assert (where.after.uptime_s or 0) > (where.before.uptime_s or 0)
