"""Larger models and other shapes, whole: minutes each, so only where asked for (-m slow)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.host import runs
from bench.record import RunRecord
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BACKENDS = ("torch-eager", "tvm-optimized")


def bench(out: Path, *arguments: str) -> RunRecord:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "bench", "--engine", "local", "--out", str(out),
         "--backends", ",".join(BACKENDS), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = runs.listed(out)
    return runs.read_record(path / runs.RECORD)


@pytest.mark.parametrize(
    ("model", "batch_size", "seq_len"),
    [("gpt2-medium", 1, 64), ("gpt2", 3, 17), ("gpt2", 1, 1), ("gpt2", 1, 1024)],
)
def test_parity_holds_and_both_are_measured(
    tmp_path: Path, model: str, batch_size: int, seq_len: int
) -> None:
    shape = ("--batch-size", str(batch_size), "--seq-len", str(seq_len))
    record = bench(tmp_path, "--model", model, *shape)
    assert record.status == "ok"
    assert [row.backend for row in record.results] == list(BACKENDS)
    for row in record.results:
        assert (row.model, row.batch_size, row.seq_len) == (model, batch_size, seq_len)
        assert row.parity is not None and row.parity.passed
        assert row.latency_ms is not None and len(row.latency_ms.samples) >= 10
        assert row.tokens_per_s == pytest.approx(batch_size * seq_len / row.latency_ms.median * 1e3)


@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 128), (8, 64), (1, 1000)])
def test_gpt2_decodes_with_its_cache(tmp_path: Path, batch_size: int, seq_len: int) -> None:
    shape = ("--batch-size", str(batch_size), "--seq-len", str(seq_len))
    record = bench(tmp_path, "--model", "gpt2", "--mode", "decode", *shape)
    assert record.status == "ok"
    for row in record.results:
        assert row.parity is not None and row.parity.passed
        assert row.latency_ms is not None and row.ttft_ms is not None
        assert row.tokens_per_s == pytest.approx(batch_size / row.latency_ms.median * 1e3)


def test_bert_base_is_encoded(tmp_path: Path) -> None:
    record = bench(tmp_path, "--model", "bert-base", "--seq-len", "128")
    assert record.status == "ok" and record.spec.mode == "encode"
    for row in record.results:
        assert row.parity is not None and row.parity.passed
        assert row.latency_ms is not None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gpt2_in_sixteen_bits_stays_within_its_tolerance(tmp_path: Path, dtype: str) -> None:
    record = bench(tmp_path, "--model", "gpt2", "--dtype", dtype)
    eager, tvm = record.results
    assert eager.parity is not None and eager.parity.passed
    assert tvm.status == "skipped"
