"""The table of `make benchmark`: rounds of all runs together, paired, and nothing made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.catalog import BEFORE, PEERS, WEIGHT_ONLY
from bench.host import runs
from bench.host.sweep import file
from bench.host.sweep.matrix import expand
from bench.record import JobSpec, RunRecord
from benchmarks import peers
from tests.unit.histories import ended, record, rounds
from tests.unit.samples import PARITY

OURS, ORT, EAGER = "tvm-optimized", "onnxruntime", "torch-eager"


def run(name: str, ort: float, count: int = 5, seed: int = 0) -> RunRecord:
    medians = {
        EAGER: rounds(30.0, count, seed=seed + 1),
        ORT: rounds(ort, count, seed=seed + 2),
        OURS: rounds(10.0, count, seed=seed + 3),
    }
    return ended(record(name, medians))


def row(lines: list[str]) -> list[str]:
    assert len(lines) == 3, "a heading, its rule and one workload"
    return [cell.strip() for cell in lines[-1].strip("|").split("|")]


def test_rounds_of_several_runs_are_taken_together_against_the_best_peer() -> None:
    (one,) = peers.collect([run("a", 12.0), run("b", 12.0, seed=10), run("c", 12.0, seed=20)])
    assert one.runs == 3
    assert len(one.rounds[OURS]) == 15
    assert one.best_peer() == ORT
    cells = row(peers.table([one]))
    assert cells[1] == "30.0" or cells[1].startswith(("29.", "30."))
    assert cells[5].startswith("1.2") or cells[5].startswith("1.19")
    assert cells[6] == "faster than onnxruntime"
    assert cells[-1].startswith("15 of 3 runs")


@pytest.mark.parametrize(
    ("ort", "count", "told"),
    [
        (8.0, 12, "slower than onnxruntime"),
        (10.0, 12, "no difference shown"),
        (12.0, 5, "too few rounds"),
    ],
)
def test_what_is_not_shown_to_be_faster_is_not_called_so(ort: float, count: int, told: str) -> None:
    assert row(peers.table(peers.collect([run("a", ort, count)])))[6] == told


def test_what_was_cut_short_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for whole in (True, False):
        made = runs.create(tmp_path / "1", JobSpec())
        one = run(made.run_id, 12.0)
        # After two rounds of the peers and one of ours.
        cut = record(
            made.run_id, {EAGER: rounds(30.0, 2), ORT: rounds(12.0, 2), OURS: rounds(9.0, 1)}
        )
        made.publish(one if whole else cut, "")
    assert peers.main(["--table", "--runs", "1", "--out", str(tmp_path)]) == 0
    assert row(capsys.readouterr().out.splitlines())[-1] == "5 of 1 runs"


def test_rounds_that_are_no_pairs_give_no_ratio() -> None:
    """A peer that failed in one of the runs ran beside none of that run's rounds."""
    lacking = record("b", {EAGER: rounds(30.0, 5), OURS: rounds(10.0, 5)})
    cells = row(peers.table(peers.collect([run("a", 12.0), lacking])))
    assert cells[5:7] == ["-", "-"]


def test_the_file_asks_for_every_workload_and_peer_that_the_table_is_for() -> None:
    cells = expand(file.read(peers.SWEEP), peers.SWEEP)
    assert not cells.impossible
    asked = {(c.spec.model, c.spec.mode, c.spec.seq_len, c.spec.batch_size) for c in cells.possible}
    assert asked == {
        *(("gpt2", "prefill", length, 1) for length in (64, 128, 512)),
        *(("gpt2", "decode", length, 1) for length in (128, 1000)),
        ("gpt2", "decode", 128, 8),
        ("bert-base", "encode", 128, 1),
        ("gpt-nano", "prefill", 64, 1),
    }
    also = {("prefill", 64, 1): {BEFORE}, ("decode", 128, 1): set(WEIGHT_ONLY)}
    for cell in cells.possible:
        spec = cell.spec
        place = (spec.mode, spec.seq_len, spec.batch_size)
        more = also.get(place, set()) if spec.model == "gpt2" else set()
        assert set(spec.backends) == {*PEERS, OURS, *more}


def gated(run: RunRecord, error: float, same: float) -> RunRecord:
    """The same, every row with this parity."""
    parity = PARITY.model_copy(update={"max_rel_err": error, "top1_agreement": same})
    rows = [one.model_copy(update={"parity": parity}) for one in run.results]
    return run.model_copy(update={"results": rows})


def test_tvm_is_held_against_itself_where_both_were_measured() -> None:
    medians = {BEFORE: rounds(500.0, 12, seed=1), OURS: rounds(10.0, 12, seed=2)}
    medians |= {name: rounds(5.0, 12, seed=3) for name in WEIGHT_ONLY}
    first = gated(ended(record("a", medians)), 1.2e-5, 0.93)
    second = gated(ended(record("b", medians)), 2.1e-2, 0.99)
    lines = peers.own_table(peers.collect([first, second]))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [one[1] for one in cells] == [
        "tvm-none → tvm-optimized",
        "tvm-optimized → tvm-bf16",
        "tvm-optimized → tvm-int8",
    ]
    ratios = [float(one[4].partition(" ")[0]) for one in cells]
    assert ratios == pytest.approx([50, 2, 2], rel=0.1)
    assert [one[5] for one in cells] == [f"faster than {name}" for name in (BEFORE, OURS, OURS)]
    assert all(one[6:] == ["2.1e-02", "93%", "24"] for one in cells), "the worst of both runs"
    assert peers.own_table(peers.collect([run("a", 12.0)])) == []


def test_what_was_too_slow_for_all_rounds_has_the_ratio_of_the_medians() -> None:
    once = record("a", {BEFORE: rounds(500.0, 3), OURS: rounds(10.0, 5)})
    cells = row(peers.own_table(peers.collect([ended(gated(once, 1e-6, 1.0))])))
    assert float(cells[4]) == pytest.approx(50, rel=0.1) and cells[5] == "of medians"


def test_it_prints_what_its_directories_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("1", "2"):
        made = runs.create(tmp_path / number, JobSpec())
        made.publish(run(made.run_id, 12.0), "")
    assert peers.main(["--table", "--runs", "2", "--out", str(tmp_path)]) == 0
    assert "10 of 2 runs" in capsys.readouterr().out
    assert peers.main(["--table", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: no run under")
