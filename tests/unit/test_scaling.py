"""How cost grows: exponents are of the points, axes are told apart, the file asks for all."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.catalog import AFTER
from bench.host import runs
from bench.host.sweep import file
from bench.host.sweep.matrix import expand
from bench.record import JobSpec, RunRecord
from benchmarks import scaling
from tests.unit.histories import ended, record, rounds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EAGER = "torch-eager"


def run(name: str, ms: float, **spec: object) -> RunRecord:
    """One run of ``spec`` in which TVM takes ``ms`` and PyTorch three times that."""
    made = ended(record(name, {EAGER: rounds(3 * ms, 3), AFTER: rounds(ms, 3)}))
    told = JobSpec.model_validate({**made.spec.model_dump(), **spec}).recorded()
    return made.model_copy(update={"spec": told})


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_points(power: float) -> None:
    line = {place: 7.0 * place**power for place in (16, 32, 64, 512)}
    assert scaling.exponent(line) == pytest.approx(power)


def test_fewer_than_two_places_have_no_exponent() -> None:
    assert scaling.exponent({}) is None
    assert scaling.exponent({64: 3.0}) is None


def test_the_tail_shows_what_grows_last() -> None:
    line = {place: 100.0 + place**2 for place in (1, 2, 4, 256, 512, 1024)}
    whole, last = scaling.exponent(line), scaling.exponent(scaling.tail(line))
    assert whole is not None and last is not None and whole < 1.5 < 1.9 < last


def test_runs_are_told_apart_by_what_grows_and_the_newest_counts() -> None:
    records = [
        run("a", 9.0, mode="prefill", seq_len=16),
        run("b", 1.0, mode="prefill", seq_len=16),
        run("c", 2.0, mode="prefill", seq_len=32),
        run("d", 3.0, mode="decode", seq_len=16),
        run("e", 4.0, mode="prefill", seq_len=64, layers=48),
        run("f", 5.0, mode="prefill", seq_len=512, threads=2),
    ]
    found = {one.axis: one for one in scaling.collect(records)}
    assert list(found) == ["prompt", "context", "depth", "threads"]
    assert found["prompt"].places == [16, 32]
    assert found["prompt"].lines[AFTER][16] == pytest.approx(1.0, rel=0.2)
    assert found["context"].places == [16]
    assert found["depth"].places == [48]
    assert found["threads"].places == [2]


def test_what_compiling_took_is_a_line_of_depth() -> None:
    made = run("a", 1.0, seq_len=64, layers=4)
    rows = [
        row.model_copy(update={"compile_s": 6.5} if row.backend == AFTER else {})
        for row in made.results
    ]
    (one,) = scaling.collect([made.model_copy(update={"results": rows})])
    assert one.lines[scaling.COMPILE] == {4: 6500.0}


def test_tables_and_chart_say_the_same_figures() -> None:
    records = [run(f"r{n}", float(n), mode="prefill", seq_len=n) for n in (16, 32, 64, 128)]
    growths = scaling.collect(records)
    lines = scaling.tables(growths)
    assert lines[2] == f"| tokens | {EAGER} | {AFTER} |"
    assert sum(line.startswith("| exponent | 1.0") for line in lines) == 1
    assert sum(line.startswith("| of the last three | ") for line in lines) == 1
    drawn = ET.fromstring(scaling.chart(growths).svg())
    words = "".join(drawn.itertext())
    for said in ("Prefill by prompt", "128 tokens", "exponent 1.0"):
        assert said in words


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_the_file_asks_for_every_axis(cores: int, counts: list[int], tmp_path: Path) -> None:
    path = tmp_path / "scaling.toml"
    path.write_text(scaling.with_threads(scaling.SWEEP.read_text(), cores))
    assert tomllib.loads(path.read_text())["sweep"][-1]["threads"] == counts
    cells = expand(file.read(path), path)
    assert not cells.impossible
    asked = {scaling.place_of(cell.spec) for cell in cells.possible}
    assert {place for axis, place in asked if axis == "depth"} == {1, 2, 4, 8, 16, 32, 48}
    assert {place for axis, place in asked if axis == "threads"} == set(counts)
    assert {place for axis, place in asked if axis == "prompt"} == {2**n for n in range(4, 11)}
    assert max(place for axis, place in asked if axis == "context") == 1000


def test_it_prints_and_draws_what_its_directory_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for length in (16, 32):
        made = runs.create(tmp_path / "runs", JobSpec(seq_len=length))
        made.publish(run(made.run_id, float(length), seq_len=length), "")
    svg = tmp_path / "scaling.svg"
    asked = ["--table", "--out", str(tmp_path / "runs"), "--svg", str(svg)]
    assert scaling.main(asked) == 0
    assert "Prefill by prompt" in capsys.readouterr().out
    assert svg.read_text().startswith("<?xml")
    assert scaling.main(["--table", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: no run under")


def test_runs_that_measured_nothing_are_no_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = runs.create(tmp_path, JobSpec())
    made.publish(run(made.run_id, 1.0).model_copy(update={"results": []}), "")
    assert scaling.main(["--table", "--out", str(tmp_path)]) == 2
    assert "measured anything" in capsys.readouterr().err
