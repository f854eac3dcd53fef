"""The roofline of a row: what a call needs, over the machine's best, and how it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import limits
from bench.counts import Work
from bench.host import report
from bench.job import peak, rating
from bench.record import JobSpec, RunRecord
from bench.roofline import Peak, Roofline
from tests.unit.samples import environment, record, result

PEAK = Peak(gemm_gflops=200.0, gemm="torch.mm", read_gb_s=40.0, read="torch.sum")
GIB = 2**30


def test_the_ridge_divides_compute_bound_from_memory_bound() -> None:
    # 200 GFLOP/s over 40 GB/s: five operations a byte.
    at = Roofline.of(Work(flops=5e9, bytes_moved=1e9), 0.1, PEAK)
    assert (at.gflops, at.gb_s, at.bound) == (50.0, 10.0, "compute")
    assert (at.gemm_fraction, at.read_fraction) == (0.25, 0.25)
    assert Roofline.of(Work(flops=4.9e9, bytes_moved=1e9), 0.1, PEAK).bound == "memory"


def test_of_two_looks_at_a_peak_each_rate_is_the_better_one() -> None:
    later = Peak(gemm_gflops=150.0, gemm="late", read_gb_s=44.0, read="late")
    assert PEAK.or_better(later) == Peak(
        gemm_gflops=200.0, gemm="torch.mm", read_gb_s=44.0, read="late"
    )
    where = rating.with_peak(rating.with_peak(environment(), PEAK), None)
    assert where.peak == PEAK
    assert rating.with_peak(environment(), None).peak is None


def test_a_row_is_rated_by_its_median_and_one_without_a_latency_is_not() -> None:
    spec = JobSpec()
    row = rating.rated(result("tvm-optimized", 200.0), spec, PEAK)
    assert row.roofline is not None
    assert row.roofline.gflops == pytest.approx(row.roofline.flops / 0.2 / 1e9)
    assert row.roofline.bound == "compute"
    failed = row.model_copy(update={"latency_ms": None})
    assert rating.rated(failed, spec, PEAK).roofline is None
    assert rating.rated(row, spec, None).roofline is None


@pytest.mark.parametrize(
    ("work", "caches", "doubts"),
    [
        (Work(flops=19e9, bytes_moved=3e9), 0, 0),
        (Work(flops=24e9, bytes_moved=3e9), 0, 1),
        (Work(flops=1e9, bytes_moved=6e9), 0, 1),
        (Work(flops=1e9, bytes_moved=6e9), 4 * GIB, 0),  # it may never leave the caches
        (Work(flops=24e9, bytes_moved=6e9), 0, 1),
    ],
)
def test_more_than_the_peak_is_told_but_for_what_the_caches_hold(
    work: Work, caches: int, doubts: int
) -> None:
    found = Roofline.of(work, 0.1, PEAK)
    row = result("torch-eager", 100.0).model_copy(update={"roofline": found})
    told = rating.doubted(row, caches).unstable
    assert len(told) == doubts
    assert all("slower moment; run it again" in reason for reason in told)


def with_rooflines() -> RunRecord:
    whole = record()
    rows = [rating.rated(row, JobSpec(), PEAK) for row in whole.results]
    where = environment().model_copy(update={"peak": PEAK})
    return whole.model_copy(update={"results": rows, "environment": where})


def test_the_terminal_has_a_line_for_after_that_fits() -> None:
    (line,) = report.rooflines(with_rooflines())
    assert line.startswith("tvm-optimized: ") and line.endswith(" (200); compute bound")
    assert " of the GEMM peak" in line and len(line) <= 80
    assert report.rooflines(record()) == []


def test_without_after_each_backend_has_a_line() -> None:
    whole = with_rooflines()
    rest = [row for row in whole.results if row.backend != "tvm-optimized"]
    lines = report.rooflines(whole.model_copy(update={"results": rest}))
    assert [line.split(":")[0] for line in lines] == [row.backend for row in rest]


def test_report_md_has_the_columns_where_there_are_figures() -> None:
    text = report.markdown(with_rooflines())
    heading = next(line for line in text.splitlines() if line.startswith("| backend"))
    assert "GFLOP/s | of GEMM peak | GB/s | of read peak" in heading and "J/token" not in heading
    after = next(line for line in text.splitlines() if line.startswith("| tvm-optimized"))
    assert after.count("|") == heading.count("|")
    assert "| GEMM peak | 200.0 GFLOP/s (torch.mm) |" in text
    assert "| read peak | 40.0 GB/s (torch.sum) |" in text
    assert "GFLOP/s" not in report.markdown(record())


# Which library is the best of float32 differs by machine; of 16 bits PyTorch's is the only one.
LIBRARIES = {
    "float32": ("torch.mm of ", "numpy.matmul of ", "oneDNN's linear of "),
    "bfloat16": ("torch.mm of ",),
}


@pytest.mark.parametrize("dtype", LIBRARIES)
def test_a_peak_for_real_names_what_it_did(dtype: str) -> None:
    found = peak.measure(JobSpec(dtype=dtype), budget_s=0.2)
    assert found.gemm.startswith(LIBRARIES[dtype]) and f" {dtype}, " in found.gemm
    assert " MiB, " in found.read and " threads, best of " in found.read


def test_every_library_is_tried_and_multiplies() -> None:
    """What is timed is a product, whole: a library that does less would look the fastest."""
    torch.manual_seed(0)
    names = []
    for one in peak.gemms("cpu", "float32", 64):
        given = one.call()
        made = given.to_dense() if isinstance(given, torch.Tensor) and given.is_mkldnn else given
        made = torch.from_numpy(made) if isinstance(made, np.ndarray) else made
        assert isinstance(made, torch.Tensor) and made.shape == (64, 64)
        assert float(made.abs().max()) > 1
        assert one.amount == 2.0 * 64**3
        names.append(one.name)
    assert names[:2] == ["torch.mm of 64x64", "numpy.matmul of 64x64"]
    assert [one.name for one in peak.gemms("cpu", "bfloat16", 64)] == ["torch.mm of 64x64"]


def cache(root: Path, core: int, index: int, level: int, size: str, whose: str) -> None:
    at = root / f"cpu{core}/cache/index{index}"
    at.mkdir(parents=True)
    for name, text in (("level", str(level)), ("size", size), ("shared_cpu_list", whose)):
        (at / name).write_text(f"{text}\n")


def test_the_last_level_is_counted_once_for_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    for core, whose in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        cache(tmp_path, core, 2, 2, "1024K", str(core))
        cache(tmp_path, core, 3, 3, "32768K", whose)
    assert limits.cache_bytes(tmp_path) == 64 * 2**20
    (tmp_path / "cpu0/cache/index3/size").write_text("lots")
    (tmp_path / "cpu1/cache/index3/size").unlink()
    assert limits.cache_bytes(tmp_path) == 32 * 2**20
    assert limits.cache_bytes(tmp_path / "none") == 0


def test_the_stream_is_past_the_caches_and_within_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "memory_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(limits, "cache_bytes", lambda: 384 * 2**20)
    assert peak.stream_bytes("cpu") == 4 * 384 * 2**20
    monkeypatch.setattr(limits, "cache_bytes", lambda: 2**20)
    assert peak.stream_bytes("cpu") == 256 * 2**20
    monkeypatch.setattr(limits, "memory_bytes", lambda: GIB)
    assert peak.stream_bytes("cpu") == 128 * 2**20
    monkeypatch.setattr(limits, "memory_bytes", lambda: 2**20)
    assert peak.stream_bytes("cpu") > 0
