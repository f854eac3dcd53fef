"""The main job on a GPU. Needs one, its driver, and the environment of `make setup TORCH=cuda`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.catalog import BACKENDS
from bench.host import runs
from tests.conftest import ROOT

pytestmark = pytest.mark.gpu


@pytest.mark.usefixtures("cuda_torch")
def test_bench_measures_every_backend_on_the_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "bench", "--gpu", "--engine", "local",
         "--model", "gpt-nano", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = runs.listed(tmp_path)
    record = runs.read_record(path / runs.RECORD)
    assert (record.status, record.spec.device) == ("ok", "cuda")
    assert record.environment is not None and record.environment.gpu
    assert [row.backend for row in record.results] == list(BACKENDS)
    for row in record.results:
        if row.backend == "onnxruntime":  # its package for a CPU, which is what the lock has
            assert row.status == "skipped"
            assert "cpu only, not cuda" in (row.reason or "")
            continue
        assert (row.device, row.status) == ("cuda", "ok"), row.reason
        assert row.parity is not None and row.parity.passed
        assert row.latency_ms is not None
