"""Runs in other tools' formats, read back by those tools."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.catalog import BertConfig, GPTConfig
from bench.errors import UsageFault
from bench.host.history import export, series
from bench.record import JobSpec, Latency, RunRecord, Weights
from tests.unit.histories import PER_ROUND, latency, record, rounds
from tests.unit.samples import environment

BACKEND = "tvm-optimized"
HOSTILE = "=cmd|'/c calc'!A1\x1b[31m\n<b>"


def written(form: str, *records: RunRecord) -> bytes:
    stream = io.BytesIO()
    export.FORMATS[form](records, stream)
    return stream.getvalue()


def pyperf(*arguments: object) -> str:
    command = [sys.executable, "-m", "pyperf", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kept(path: Path, *records: RunRecord) -> Path:
    path.write_bytes(written("pyperf", *records))
    return path


def test_pyperf_compares_two_runs(tmp_path: Path) -> None:
    base = kept(tmp_path / "base.json", record("base", {BACKEND: rounds(10.0, seed=1)}))
    slow = kept(tmp_path / "slow.json", record("slow", {BACKEND: rounds(12.0, seed=2)}))
    said = pyperf("compare_to", base, slow)
    assert "1.20x slower" in said and "10.00 ms" in said and "12.0 ms" in said


def test_pyperf_reads_every_round_as_a_run_with_its_samples(tmp_path: Path) -> None:
    made = record("base", {BACKEND: rounds(10.0, 11), "tvm-none": rounds(20.0, 11)})
    said = pyperf("stats", kept(tmp_path / "a.json", made))
    assert "Number of benchmarks: 2" in said
    assert said.count("Total number of run: 11") == 2
    assert f"Total number of values: {11 * PER_ROUND}" in said
    assert "gpt2 prefill batch 1 tokens 64 float32 cpu tvm-none" in said
    told = pyperf("metadata", tmp_path / "a.json")
    assert "cpu_model_name: A CPU" in told and "run_id: base" in told


def test_pyperf_pairs_only_what_is_alike(tmp_path: Path) -> None:
    short = kept(tmp_path / "a.json", record("a", spec=JobSpec(seq_len=8)))
    long = kept(tmp_path / "b.json", record("b", spec=JobSpec(seq_len=16)))
    command = [sys.executable, "-m", "pyperf", "compare_to", str(short), str(long)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "slower" not in done.stdout and "faster" not in done.stdout
    both = written("pyperf", record("a", spec=JobSpec(seq_len=8)), record("b"))
    assert len(json.loads(both)["benchmarks"]) == 2


def test_two_runs_of_the_same_are_not_one_benchmark() -> None:
    with pytest.raises(UsageFault, match="a and b both measured"):
        written("pyperf", record("a"), record("b"))


def test_pyperf_takes_texts_that_it_would_refuse(tmp_path: Path) -> None:
    where = environment().model_copy(update={"cpu": HOSTILE, "kernel": "", "python": " \n "})
    made = record("base", {HOSTILE: rounds(10.0)}, where=where, commit="")
    assert "Number of run with values: 12" in pyperf("stats", kept(tmp_path / "a.json", made))


def test_what_pyperf_cannot_say_is_refused() -> None:
    with pytest.raises(UsageFault, match="nothing was measured"):
        written("pyperf", record("a", {BACKEND: None}))
    made = record("a")
    (row,) = made.results
    zero = row.model_copy(update={"latency_ms": Latency.of([0.0, 1.0])})
    with pytest.raises(UsageFault, match="a sample is 0 ms"):
        written("pyperf", made.model_copy(update={"results": [zero]}))


def old_and_new() -> list[RunRecord]:
    """One from before the rounds, and one of two backends with them, a decode."""
    old = record("old")
    (row,) = old.results
    row = row.model_copy(update={"latency_ms": Latency.of([1.5, 2.5])})
    spec = JobSpec(mode="decode", batch_size=2)
    new = record("new", {BACKEND: rounds(3.0, 10), "tvm-none": rounds(4.0, 10)}, spec=spec)
    rows = [one.model_copy(update={"ttft_ms": latency([30.0])}) for one in new.results]
    return [
        old.model_copy(update={"results": [row]}),
        new.model_copy(update={"results": rows}),
    ]


def expected(records: Sequence[RunRecord]) -> list[tuple[object, ...]]:
    return [
        (record.run_id, one.backend, one.metric, index, *beside, sample)
        for record in records
        for one in series.of(record)
        for index, sample in enumerate(one.samples)
        for beside in [
            (one.process[index], one.order[index])
            if one.process is not None and one.order is not None
            else (None, None)
        ]
    ]


KEYS = ("run", "backend", "metric", "sample", "process", "order", "milliseconds")


def test_csv_has_every_sample_with_its_round() -> None:
    text = written("csv", *old_and_new()).decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(lines[0]) == list(export.COLUMNS)
    read = [
        (
            line["run"],
            line["backend"],
            line["metric"],
            int(line["sample"]),
            int(line["process"]) if line["process"] else None,
            int(line["order"]) if line["order"] else None,
            float(line["milliseconds"]),
        )
        for line in lines
    ]
    assert read == expected(old_and_new())
    assert len(read) == 2 + 2 * 10 * PER_ROUND + 2 * PER_ROUND


def test_parquet_has_the_same_and_its_types(tmp_path: Path) -> None:
    from pyarrow import parquet  # type: ignore[import-untyped]

    file = tmp_path / "a.parquet"
    file.write_bytes(written("parquet", *old_and_new()))
    table = parquet.read_table(file)
    assert table.column_names == list(export.COLUMNS)
    assert [tuple(row[key] for key in KEYS) for row in table.to_pylist()] == expected(old_and_new())
    assert str(table.schema.field("milliseconds").type) == "double"
    assert str(table.schema.field("process").type) == "int64"


def test_parquet_of_nothing_is_a_table_without_rows(tmp_path: Path) -> None:
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    file.write_bytes(written("parquet"))
    assert parquet.read_table(file).num_rows == 0


def test_parquet_in_several_batches_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(export, "_PARQUET_ROWS", 7)
    table = parquet.read_table(io.BytesIO(written("parquet", *old_and_new())))
    assert table.num_rows == len(expected(old_and_new()))


def test_a_number_that_parquet_cannot_hold_is_said() -> None:
    made = record("a")
    (row,) = made.results
    big = made.model_copy(update={"results": [row.model_copy(update={"batch_size": 10**30})]})
    with pytest.raises(UsageFault, match="too large for Parquet"):
        written("parquet", big)
    assert str(10**30) in written("csv", big).decode()


def test_a_spreadsheet_is_given_no_formula_and_a_terminal_no_command() -> None:
    text = written("csv", record(HOSTILE, {HOSTILE: rounds(10.0)})).decode()
    (line, *_) = csv.DictReader(io.StringIO(text))
    for shown in (line["run"], line["backend"]):
        assert shown.startswith("'=cmd") and shown.isprintable()


def cells(form: bytes) -> list[list[str]]:
    lines = form.decode().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_has_tokens_a_second_as_llama_bench_prints_them() -> None:
    medians = rounds(10.0)
    heading, _, row = cells(written("markdown", record("a", {BACKEND: medians})))
    rates = [64 / ms * 1e3 for ms in medians]
    assert dict(zip(heading, row, strict=True)) == {
        "model": "`gpt2`",
        "size": "474.70 MiB",
        "params": "124.44 M",
        "backend": f"`{BACKEND}`",
        "threads": "2",
        "dtype": "`float32`",
        "batch": "1",
        "test": "pp64",
        "t/s": f"{statistics.fmean(rates):.2f} ± {statistics.stdev(rates):.2f}",
    }


def test_a_decode_counts_new_tokens_and_its_prompt_by_itself() -> None:
    _, new = old_and_new()
    _, _, *rows = cells(written("markdown", new))
    assert [row[-2] for row in rows[:2]] == ["tg16 @ d64", "pp64"]
    per_token, first = (float(row[-1].split()[0]) for row in rows[:2])
    assert per_token == pytest.approx(2 / 3.0 * 1e3, rel=0.01)
    assert first == pytest.approx(2 * 64 / 30.0 * 1e3, rel=0.01)


def test_the_parameters_are_those_that_the_models_have() -> None:
    from bench.job.bert import Bert
    from bench.job.gpt import GPT

    for geometry, kind in (
        (GPTConfig(2, 2, 8, block_size=16, vocab_size=11), GPT),
        (BertConfig(2, 2, 8, block_size=16, vocab_size=11), Bert),
    ):
        model = kind(geometry)  # type: ignore[arg-type]
        assert export._parameters(geometry) == sum(one.numel() for one in model.parameters())


def test_an_unknown_model_has_no_size_and_a_checkpoint_has_its_own() -> None:
    made = record("a")
    unknown = made.model_copy(update={"spec": made.spec.model_copy(update={"model": "of later"})})
    assert cells(written("markdown", unknown))[2][1:3] == ["-", "-"]
    weights = Weights.of("x", "a" * 64, GPTConfig(2, 2, 8, block_size=64, vocab_size=11))
    own = made.model_copy(update={"spec": made.spec.model_copy(update={"weights": weights})})
    params = cells(written("markdown", own))[2][2]
    assert math.isclose(float(params.split()[0]), 0.0, abs_tol=0.01)


@pytest.mark.parametrize("geometry", [{"n_layer": 1}, {"depth": 3}])
def test_a_geometry_that_cannot_be_read_is_no_size(geometry: dict[str, int]) -> None:
    made = record("a")
    weights = Weights(source="x", sha256="a" * 64, geometry=geometry)
    odd = made.model_copy(update={"spec": made.spec.model_copy(update={"weights": weights})})
    assert cells(written("markdown", odd))[2][1:3] == ["-", "-"]


def test_the_format_is_the_one_asked_for_or_the_files() -> None:
    assert export.format_of(None, Path("a.JSON")) == "pyperf"
    assert export.format_of("csv", Path("a.json")) == "csv"
    for named, file in ((None, None), (None, Path("a.xls")), ("xml", Path("a.csv"))):
        with pytest.raises(UsageFault, match="format"):
            export.format_of(named, file)
