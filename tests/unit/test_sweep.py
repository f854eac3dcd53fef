"""A sweep over the shipped fake engine: what it measures, skips, tries again, and says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import launch, local_content, owner, runs
from bench.host.choose import Choice
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.fake import FakeEngine
from bench.host.store import Store
from bench.host.sweep import lock, place, verbs
from bench.host.sweep.place import Spot, Where
from bench.record import Fault, JobOutcome, JobSpec, Result
from bench.system import SystemState
from tests.unit import samples

TWO = "model = 'gpt-nano'\nbackends = ['torch-eager', 'tvm-optimized']\nseq_len = [8, 16]\n"


class Bench:
    """A directory of runs, a sweep's file, and an engine whose job is written down here."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        self.out, self.file = tmp_path / "out", tmp_path / "a.toml"
        self.ran: list[JobSpec] = []
        self.failing: set[str] = set()
        self.skipping: set[str] = set()
        self.uptime_s = 1000.0
        self.content, self.cpu = "c" * 64, samples.environment().cpu
        self._patch = patch
        patch.setattr(place, "prepare", self._prepare)
        patch.setattr(place, "preview", self._prepare)
        patch.setattr(local_content, "of", lambda root: self.content)
        patch.setattr(place, "_version", lambda name: "2.13.0")

    def sweep(self, text: str = TWO, *, dry_run: bool = False, as_json: bool = False) -> None:
        self.file.write_text(text)
        self.ran.clear()
        verbs.sweep(
            self.file, self.out, engine="local", bounds=None, dry_run=dry_run, as_json=as_json
        )

    def job(self, at: Launch, on_line: OnLine) -> Ending:
        spec = JobSpec.model_validate_json((at.run_dir / "spec.json").read_bytes())
        self.ran.append(spec)
        self.hand_back(at, spec)
        return Ending("exited", exit_code=0)

    def hand_back(self, at: Launch, spec: JobSpec, *, finished: bool = True) -> None:
        before = SystemState(uptime_s=self.uptime_s)
        self.uptime_s += 30.0
        where = samples.environment().model_copy(
            update={"before": before, "cpu": self.cpu}
            | ({"after": SystemState(uptime_s=self.uptime_s)} if finished else {})
        )
        rows = [self._row(name, spec) for name in spec.backends]
        outcome = JobOutcome(environment=where, results=rows, finished=finished)
        (at.run_dir / "outcome.json").write_text(outcome.model_dump_json())

    def lengths(self) -> list[tuple[str, int]]:
        """(name, length) of every run."""
        paths = list(runs.listed(self.out))
        read = [runs.read_record(path / "record.json") for path in paths]
        return [(p.name, r.spec.seq_len) for p, r in zip(paths, read, strict=True)]

    def records(self) -> list[tuple[str, tuple[str, ...], int]]:
        """(status, backends, length) of every run, in order."""
        read = [runs.read_record(path / "record.json") for path in runs.listed(self.out)]
        read.sort(key=lambda record: record.spec.seq_len)
        return [(one.status, one.spec.backends, one.spec.seq_len) for one in read]

    def _row(self, name: str, spec: JobSpec) -> Result:
        told = {"status": "failed", "reason": "it disagreed"}
        if name in self.failing:
            return Result.blank(name, spec).model_copy(update=told)
        if name in self.skipping:
            return Result.blank(name, spec).model_copy(update={**told, "status": "skipped"})
        return samples.result(name, 5.0, spec)

    def _prepare(self, *arguments: object) -> dict[place.Key, Spot]:
        where = Where(self.content, in_image=False, cpu=self.cpu, cores=2)
        engine = FakeEngine(lambda at, on_line: self.job(at, on_line))
        return {(None, "cpu"): Spot(where, "fake", Choice(engine, None, "fake"))}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


BOTH = ("torch-eager", "tvm-optimized")


def test_every_cell_is_measured_once_and_then_found(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.sweep()
    assert [(spec.seq_len, spec.backends) for spec in bench.ran] == [(8, BOTH), (16, BOTH)]
    said = capsys.readouterr()
    assert "gpt-nano prefill, batch 1, 16 tokens, float32  measured" in said.out
    assert "[1/2]" in said.err and "left" in said.err and "2 cells: 2 measured" in said.err
    bench.sweep()
    assert not bench.ran
    assert "2 cells: 2 found" in capsys.readouterr().err


def test_a_run_of_bench_counts(bench: Bench) -> None:
    spec = JobSpec(model="gpt-nano", backends=BOTH, seq_len=16, timeout_s=7.0)
    launch.run(spec, FakeEngine(bench.job), None, bench.out, Store.of(os.environ))
    bench.sweep()
    assert [one.seq_len for one in bench.ran] == [8]


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"rounds": 2}, {"threads": 1}, {"repeats": 10}, {"pin": (0,)}]
)
def test_a_run_of_another_spec_does_not(bench: Bench, other: dict[str, object]) -> None:
    asked = {"model": "gpt-nano", "backends": BOTH, "seq_len": 16, **other}
    spec = JobSpec.model_validate(asked)
    launch.run(spec, FakeEngine(bench.job), None, bench.out, Store.of(os.environ))
    bench.sweep()
    assert [one.seq_len for one in bench.ran] == [8, 16]


def test_other_content_and_another_machine_are_measured_anew(bench: Bench) -> None:
    for change, value in (("content", "d" * 64), ("cpu", "Another CPU"), ("content", "c" * 64)):
        bench.sweep()
        setattr(bench, change, value)
        bench.sweep(dry_run=True)
        assert not bench.ran
        bench.sweep()
        assert len(bench.ran) == 2
    bench.cpu = samples.environment().cpu
    bench.sweep()  # as it was at first
    assert not bench.ran


def test_other_packages_are_measured_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.sweep()
    monkeypatch.setattr(place, "_version", lambda name: "2.14.0")
    with pytest.raises(JobFailed, match="changed while"):  # the fake job tells of 2.13.0
        bench.sweep()
    assert len(bench.ran) == 1


def test_an_added_backend_alone_is_measured(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.sweep()
    bench.sweep(TWO.replace("[", "['torch-compile', ", 1))
    assert [spec.backends for spec in bench.ran] == [("torch-compile",)] * 2
    said = capsys.readouterr()
    assert "measured*" in said.out and "did not take turns" in said.err


def test_what_failed_is_tried_again_and_stops_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.failing = {"tvm-optimized"}
    with pytest.raises(JobFailed, match="2 of 2 cells failed") as caught:
        bench.sweep()
    assert "8 tokens" in caught.value.message and "it disagreed" in caught.value.message
    assert "invoke sweep" in str(caught.value.hint)
    assert len(bench.ran) == 2
    assert "failed" in capsys.readouterr().out
    bench.failing = set()
    bench.sweep()
    assert [spec.backends for spec in bench.ran] == [("tvm-optimized",)] * 2


def test_a_backend_that_cannot_is_not_asked_again(bench: Bench) -> None:
    bench.skipping = {"tvm-optimized"}
    bench.sweep()
    bench.sweep()
    assert not bench.ran


def test_a_job_cut_short_does_not_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(at: Launch, on_line: OnLine) -> Ending:
        spec = JobSpec.model_validate_json((at.run_dir / "spec.json").read_bytes())
        bench.hand_back(at, spec, finished=False)
        return Ending("signal", detail="SIGKILL")

    with monkeypatch.context() as patch:
        patch.setattr(bench, "job", killed)
        with pytest.raises(JobFailed, match="2 of 2 cells failed"):
            bench.sweep()
    bench.sweep()
    assert [spec.backends for spec in bench.ran] == [BOTH] * 2


def test_an_impossible_request_is_a_failed_cell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(at: Launch, on_line: OnLine) -> Ending:
        outcome = JobOutcome(
            environment=samples.environment(), fault=Fault(message="no float16 here", exit_code=2)
        )
        (at.run_dir / "outcome.json").write_text(outcome.model_dump_json())
        return Ending("exited", exit_code=1)

    monkeypatch.setattr(bench, "job", refuse)
    with pytest.raises(JobFailed, match="no float16 here"):
        bench.sweep()
    assert not bench.records()


def test_ctrl_c_publishes_what_was_under_way_and_says_how_to_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(at: Launch, on_line: OnLine) -> Ending:
        if bench.ran:
            raise KeyboardInterrupt
        return Bench.job(bench, at, on_line)

    with monkeypatch.context() as patch:
        patch.setattr(bench, "job", interrupted)
        with pytest.raises(JobFailed, match="the sweep was interrupted") as caught:
            bench.sweep()
    assert f"invoke sweep {bench.file} --engine local --out {bench.out}" in str(caught.value.hint)
    assert bench.records() == [("ok", BOTH, 8), ("failed", BOTH, 16)]
    bench.sweep()
    assert [spec.seq_len for spec in bench.ran] == [16]


def test_code_that_is_edited_meanwhile_stops_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edited(at: Launch, on_line: OnLine) -> Ending:
        bench.content = "e" * 64
        return Bench.job(bench, at, on_line)

    with monkeypatch.context() as patch:
        patch.setattr(bench, "job", edited)
        with pytest.raises(JobFailed, match="changed while the sweep measured"):
            bench.sweep()
    (path,) = runs.listed(bench.out)
    assert runs.read_record(path / "record.json").content is None
    bench.sweep()
    assert len(bench.ran) == 2


def test_a_damaged_record_is_measured_again(bench: Bench) -> None:
    bench.sweep()
    path = next(runs.listed(bench.out))
    (path / "record.json").write_text("{")
    bench.sweep()
    assert len(bench.ran) == 1


def test_a_dry_run_writes_nothing_and_says_what_is_there(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.sweep(dry_run=True)
    assert not bench.out.exists() and not bench.ran
    assert "2 cells: 2 to measure" in capsys.readouterr().err
    bench.sweep("model = 'gpt-nano'\nbackends = ['torch-eager', 'tvm-optimized']\nseq_len = 8")
    bench.sweep(TWO + "[[sweep]]\n[[sweep]]\nmodel = 'bert-base'\nseq_len = [1024]", dry_run=True)
    said = capsys.readouterr()
    assert "2 cells: 1 found, 1 to measure, 1 not possible" in said.err
    assert "not possible: model bert-base" in said.err


def test_the_table_as_json(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.failing = {"tvm-optimized"}
    with pytest.raises(JobFailed):
        bench.sweep(as_json=True)
    data = json.loads(capsys.readouterr().out)
    first = data["cells"][0]
    assert (first["state"], first["missing"]) == ("failed", ["tvm-optimized"])
    assert first["backends"]["torch-eager"]["median_ms"] == pytest.approx(5.0)
    of_first = {name for name, length in bench.lengths() if length == 8}
    assert set(first["runs"]) == of_first and len(of_first) == 1
    assert data["impossible"] == []


def test_two_sweeps_in_one_directory_are_kept_apart(bench: Bench) -> None:
    @contextmanager
    def other() -> Iterator[None]:
        with lock.alone(bench.out):
            yield

    with other(), pytest.raises(UsageFault, match="another sweep is at work") as caught:
        bench.sweep()
    assert str(os.getpid()) in caught.value.message and not bench.ran
    bench.sweep()
    assert len(bench.ran) == 2
    assert (bench.out / lock.LOCK).read_text() == ""


def test_a_killed_sweep_is_waited_for_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel frees a lock before the process that held it is gone."""
    (tmp_path / lock.LOCK).write_text("12:34")
    answers = [True, True, False]
    monkeypatch.setattr(owner, "alive", lambda holder: answers.pop(0))
    with lock.alone(tmp_path):
        assert not answers


def test_a_directory_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    (tmp_path / lock.LOCK).mkdir()
    with pytest.raises(UsageFault, match="cannot lock"), lock.alone(tmp_path):
        pass
