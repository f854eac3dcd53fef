"""Real backends under their profilers, and profilers that fail: no measurement is lost."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.catalog import OUTCOME_FILE, SPEC_FILE
from bench.job import backends, models, modes, reference, runner
from bench.job.backends.base import Recordable
from bench.job.modes import Work
from bench.job.profile import MEASURED, kineto, table, taking
from bench.job.profile.events import Recording
from bench.operators import kind_of
from bench.record import JobOutcome, JobSpec, StepReport
from tests.unit.samples import result

SPEC = JobSpec(
    model="gpt-nano", seq_len=8, repeats=10, operators="table", backends=("torch-eager",)
)


def at_work(backend: str, spec: JobSpec) -> tuple[Recordable, Work]:
    ready = backends.load(backend).prepare(spec, modes.programs(spec, models.build(spec))).ready
    work = modes.start(spec, ready)
    if spec.mode == "decode":
        work.logits(torch.zeros(spec.batch_size, spec.seq_len + 1, dtype=torch.int64))
    assert isinstance(ready, Recordable)
    return ready, work


def seen(backend: str, spec: JobSpec = SPEC) -> list[Recording]:
    """What two profiled calls say, after one that warms up."""
    ready, work = at_work(backend, spec)
    call = work.call()
    for _ in range(3):  # as timing does: torch.compile compiles a step more than once
        call()
    going = iter([True, True, False])
    return ready.record(call, lambda: next(going))[1:]


def names(recording: Recording) -> Counter[str]:
    return Counter(event.name for event in recording.events)


@pytest.mark.parametrize(
    ("backend", "mode"),
    [("torch-eager", "prefill"), ("torch-compile", "decode"), ("tvm-default", "decode")],
)
def test_every_call_has_the_same_operators_and_they_fit_in_it(backend: str, mode: str) -> None:
    first, second = seen(backend, SPEC.model_copy(update={"mode": mode}))
    assert names(first) == names(second)
    for recording in (first, second):
        found = table.of([recording], "p")
        total = sum(one.total_ms for one in found.operators)
        assert 0 < total <= found.call_ms * 1.05
        kinds = {kind_of(one.name) for one in found.operators}
        assert {"products", "norm"} <= kinds
        assert any(one.shapes for one in found.operators)


def test_inductors_own_kernels_are_named_and_left_as_they_were() -> None:
    plain = {
        (id(module), name): kernel
        for module in kineto._generated_modules()
        for name, kernel in vars(module).items()
    }
    first, _ = seen("torch-compile")
    assert any(name.startswith("cpp_fused") for name in names(first))
    for module in kineto._generated_modules():
        for name, kernel in vars(module).items():
            assert getattr(kernel, "__name__", "") != "told"
            assert plain.get((id(module), name), kernel) is kernel


def test_the_machine_that_is_timed_has_no_instrument() -> None:
    ready, work = at_work("tvm-default", SPEC.model_copy(update={"mode": "decode"}))
    before = dict(ready.programs)  # type: ignore[attr-defined]
    taking.take(ready, work.call())
    assert ready.programs == before  # type: ignore[attr-defined]


class Slow:
    """A profiler whose calls take a time that is told, without waiting."""

    profiler = "slow"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call_s: float) -> None:
        self.now = 0.0
        self.call_s = call_s
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def record(self, call: Callable[[], object], again: Callable[[], bool]) -> list[Recording]:
        recordings, going = [], True
        while going:
            self.now += self.call_s
            recordings.append(Recording([], self.now))
            going = again()
        return recordings


@pytest.mark.parametrize(("call_s", "kept"), [(0.01, 5), (0.9, 2), (2.5, 1), (13.0, 1)])
def test_profiling_is_bounded_and_a_slow_call_is_made_once(
    monkeypatch: pytest.MonkeyPatch, call_s: float, kept: int
) -> None:
    assert len(taking.take(Slow(monkeypatch, call_s), lambda: None)) == kept


class Failing:
    profiler = "failing"

    def record(self, call: Callable[[], object], again: Callable[[], bool]) -> list[Recording]:
        raise RuntimeError("no profiler today")


class Nothing:
    warm_s = 0.0

    def call(self) -> Callable[[], object]:
        return lambda: None


def test_a_profiler_that_raises_takes_nothing_away(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = StepReport(result=result("torch-eager", 5.0, SPEC))
    for ready in (Failing(), object()):
        assert taking.added(report, SPEC, ready, Nothing(), tmp_path) == report  # type: ignore[arg-type]
    said = capfd.readouterr()
    assert "no profiler today" in said.err
    assert "the row is kept without operators" in said.out and "has no profiler" in said.out
    assert not list(tmp_path.iterdir())


def job(tmp_path: Path, spec: JobSpec) -> JobOutcome:
    path = tmp_path / SPEC_FILE
    path.write_text(spec.model_dump_json())
    return runner.run(path)


def test_a_profiler_that_kills_its_process_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import os, signal, sys; from bench.job import worker; "
        "from bench.job.profile import taking; "
        "taking.take = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        "sys.exit(worker.main(sys.argv[3:]))"  # without -m and the module that is asked for
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    path = tmp_path / SPEC_FILE
    path.write_text(SPEC.model_dump_json())
    reference.write(SPEC, models.build(SPEC), tmp_path)
    report = runner._step("torch-eager", path, SPEC, tmp_path)
    row = report.result
    assert row is not None and row.status == "ok" and report.fault is None
    assert row.latency_ms is not None and len(row.latency_ms.samples) == 10
    assert row.operators is None
    assert "torch-eager: in its profiler the process was killed by SIGKILL" in (
        capfd.readouterr().out
    )


def test_a_job_that_is_stopped_in_a_profiler_has_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = StepReport(result=result("torch-eager", 5.0, SPEC))

    def step(
        name: str, spec_path: Path, spec: JobSpec, scratch: Path, number: int = 0
    ) -> StepReport:
        if name != "torch-eager":
            return StepReport()
        (scratch / f"{name}{MEASURED}").write_text(measured.model_dump_json())
        raise SystemExit(143)

    monkeypatch.setattr(runner, "_step", step)
    with pytest.raises(SystemExit):
        job(tmp_path, SPEC)
    left = JobOutcome.model_validate_json((tmp_path / OUTCOME_FILE).read_bytes())
    assert left.results == [measured.result] and not left.finished
