"""The whole job, for real, through the local engine: what `invoke bench` does without Docker."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.host import launch, runs
from bench.host.engine.local import LocalEngine
from bench.host.store import Store
from bench.job import environment
from bench.record import JobSpec, RunRecord

SPEC = JobSpec(
    model="gpt-nano", seq_len=8, repeats=10, backends=("torch-eager", "tvm-none", "tvm-optimized")
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    root = tmp_path_factory.mktemp("job")
    store = root / "store"
    store.mkdir()
    return launch.run(SPEC, LocalEngine(), None, root / "out", Store(store, 2**30))


def test_the_record_has_a_passed_and_measured_row_for_every_backend(
    ran: tuple[RunRecord, Path],
) -> None:
    record, path = ran
    assert (record.status, record.reason) == ("ok", None)
    assert [row.backend for row in record.results] == list(SPEC.backends)
    for row in record.results:
        assert row.status == "ok"
        assert row.parity is not None and row.parity.passed and row.parity.calls == 3
        assert row.latency_ms is not None and len(row.latency_ms.samples) == 10
        assert row.tokens_per_s == pytest.approx(8 / row.latency_ms.median * 1e3)
        assert row.peak_memory_mib is not None and row.peak_memory_mib > 50
        assert (row.threads or 0) >= 1
        assert (row.artefact is not None) == row.backend.startswith("tvm")
    assert runs.read_record(path / "record.json") == record
    assert sorted(p.name for p in path.iterdir()) == [
        "job.log", "record.json", "report.md", "spec.json",
    ]  # fmt: skip


def test_the_record_says_what_the_job_ran_on(ran: tuple[RunRecord, Path]) -> None:
    where = ran[0].environment
    assert where is not None
    here = environment.describe()
    assert (where.cpu, where.kernel, where.packages) == (here.cpu, here.kernel, here.packages)
    assert {"torch", "apache-tvm-ffi"} <= set(where.packages)
    assert where.tvm_library is not None
    assert Path(where.tvm_library.path).is_file()
    installed = {where.packages.get(name) for name in ("apache-tvm", "tvm")} - {None}
    assert len(installed) == 1
    assert str(*installed) in where.tvm_library.build_id


def test_a_second_run_compiles_nothing_again(ran: tuple[RunRecord, Path], tmp_path: Path) -> None:
    _, path = ran
    store = Store(path.parents[1] / "store", 2**30)
    record, _ = launch.run(SPEC, LocalEngine(), None, tmp_path, store)
    cached = {row.backend: row.compile_cached for row in record.results}
    assert cached == {"torch-eager": None, "tvm-none": True, "tvm-optimized": True}


def test_a_job_over_its_time_is_published_with_its_log(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"timeout_s": 0.2})
    (tmp_path / "store").mkdir()
    record, path = launch.run(
        spec, LocalEngine(), None, tmp_path / "out", Store(tmp_path / "store", 2**30)
    )
    assert record.status == "failed" and record.reason == "timeout: over 0.2 s"
    assert {row.status for row in record.results} == {"skipped"}
    assert (path / "job.log").exists() and not (path / "scratch").exists()
