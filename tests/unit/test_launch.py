"""From spec to published record, over the shipped fake engine: every way a job can end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import launch, runs
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.fake import FakeEngine, Script
from bench.host.store import Store
from bench.jobs import TEXT_LINE
from bench.record import Fault, JobOutcome, JobSpec, Result
from bench.training import PRESETS, TrainSpec
from tests.unit.samples import environment, result

SPEC = JobSpec(model="gpt-nano", backends=("tvm-none", "tvm-optimized"))


def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", limit_bytes=2**20)


def hand_back(at: Launch, *rows: Result, fault: Fault | None = None, finished: bool = True) -> None:
    outcome = JobOutcome(
        environment=environment(), results=list(rows), fault=fault, finished=finished
    )
    (at.run_dir / "outcome.json").write_text(outcome.model_dump_json())


def only(out: Path) -> Path:
    (path,) = out.iterdir()
    return path


def run(tmp_path: Path, script: Script) -> tuple[FakeEngine, Path]:
    engine = FakeEngine(script)
    record, path = launch.run(SPEC, engine, None, tmp_path / "out", store(tmp_path))
    assert runs.read_record(path / "record.json") == record
    assert path == only(tmp_path / "out")
    return engine, path


def good(at: Launch, on_line: OnLine) -> Ending:
    (at.run_dir / "scratch").mkdir()
    on_line("progress 0 2 tvm-none")
    on_line("a word from the job")
    hand_back(at, *(result(name, 5.0, SPEC) for name in SPEC.backends))
    return Ending("exited", exit_code=0)


def test_a_good_run_is_published_whole(tmp_path: Path) -> None:
    engine, path = run(tmp_path, good)
    record = runs.read_record(path / "record.json")
    assert (record.status, record.reason, record.engine) == ("ok", None, "fake")
    assert record.spec == SPEC.recorded()
    assert record.environment is not None and record.environment.git_commit
    assert sorted(p.name for p in path.iterdir()) == [
        "job.log", "record.json", "report.md", "spec.json",
    ]  # fmt: skip
    assert "a word from the job" in (path / "job.log").read_text()
    assert launch.log_tail(path) == ["a word from the job"]
    assert engine.launches[0].timeout_s == SPEC.timeout_s
    assert not engine.launches[0].gpu


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending("exited", exit_code=3), "exit code 3"),
        (Ending("out of memory", exit_code=137), "out of memory"),
        (Ending("timeout", detail="over 5 s"), "timeout: over 5 s"),
        (Ending("signal", detail="SIGKILL"), "signal: SIGKILL"),
    ],
)
def test_a_job_that_dies_is_published_with_its_reason_and_what_it_had(
    tmp_path: Path, ending: Ending, reason: str
) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        hand_back(at, result("tvm-none", 9.0, SPEC), finished=False)
        return ending

    _, path = run(tmp_path, script)
    record = runs.read_record(path / "record.json")
    assert (record.status, record.reason) == ("failed", reason)
    assert [(row.backend, row.status) for row in record.results] == [
        ("tvm-none", "ok"),
        ("tvm-optimized", "skipped"),
    ]
    assert record.results[1].reason == f"not reached: {reason}"


def test_a_job_that_dies_before_its_first_word_is_published_too(tmp_path: Path) -> None:
    _, path = run(tmp_path, lambda at, on_line: Ending("exited", exit_code=127))
    record = runs.read_record(path / "record.json")
    assert record.environment is None
    assert {row.status for row in record.results} == {"skipped"}


def test_one_failed_backend_fails_the_run_and_names_it(tmp_path: Path) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        bad = Result.blank("tvm-optimized", SPEC).model_copy(
            update={"status": "failed", "reason": "it disagreed"}
        )
        hand_back(at, result("tvm-none", 9.0, SPEC), bad)
        return Ending("exited", exit_code=0)

    _, path = run(tmp_path, script)
    record = runs.read_record(path / "record.json")
    assert record.reason == "1 of 2 backends failed: tvm-optimized (it disagreed)"


def test_an_interrupted_run_is_published_as_failed(tmp_path: Path) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        hand_back(at, result("tvm-none", 9.0, SPEC), finished=False)
        raise KeyboardInterrupt

    with pytest.raises(JobFailed, match="interrupted") as caught:
        run(tmp_path, script)
    path = only(tmp_path / "out")
    assert caught.value.hint is not None and str(path) in caught.value.hint
    assert runs.read_record(path / "record.json").reason == "interrupted by the user"


def test_an_engine_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        raise UsageFault("no such image", hint="build it")

    with pytest.raises(UsageFault, match="no such image"):
        run(tmp_path, script)
    assert not (tmp_path / "out").exists()


def test_an_engine_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError):
        run(tmp_path, script)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("finished", [None, False])
def test_a_job_that_exits_well_without_an_outcome_has_failed(
    tmp_path: Path, finished: bool | None
) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        if finished is not None:
            hand_back(at, result("tvm-none", 9.0, SPEC), finished=finished)
        return Ending("exited", exit_code=0)

    _, path = run(tmp_path, script)
    record = runs.read_record(path / "record.json")
    assert (record.status, record.reason) == ("failed", "the job ended without an outcome")


def test_a_request_the_job_finds_impossible_leaves_nothing(tmp_path: Path) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        hand_back(at, fault=Fault(message="no nvcc", hint="install it", exit_code=2))
        return Ending("exited", exit_code=1)

    with pytest.raises(UsageFault, match="no nvcc") as caught:
        run(tmp_path, script)
    assert caught.value.hint == "install it"
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_under_the_log_is_an_error_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        (at.run_dir / "job.log").unlink()
        on_line("a line for a disk that is full")
        return Ending("exited", exit_code=0)

    real = Path.open

    def on_a_full_disk(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "job.log":
            path.touch()
            return open("/dev/full", "wb", buffering=0)  # every write: no space left on device
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", on_a_full_disk)
    with pytest.raises(UsageFault, match="No space left"):
        run(tmp_path, script)
    assert not (tmp_path / "out").exists()


TRAINING = TrainSpec(
    **PRESETS["char-tiny"].model_dump(),
    preset="char-tiny",
    model="char-tiny",
    text="a",
    text_sha256="0" * 64,
)


def with_checkpoint(at: Launch) -> None:
    (at.run_dir / "checkpoint").mkdir()
    (at.run_dir / "checkpoint" / "state.json").write_text("{}")


@pytest.mark.parametrize(
    "error", [UsageFault("cannot write job.log: No space left"), RuntimeError("the engine left")]
)
def test_hours_of_training_outlive_whatever_goes_wrong(tmp_path: Path, error: Exception) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        with_checkpoint(at)
        raise error

    with pytest.raises(type(error)):
        launch.run(
            TRAINING, FakeEngine(script), None, tmp_path / "out", store(tmp_path),
            inputs={"text": tmp_path},
        )  # fmt: skip
    path = only(tmp_path / "out")
    assert (path / "checkpoint" / "state.json").is_file()
    record = runs.read_record(path / "record.json")
    assert record.status == "failed" and str(error) in str(record.reason)


def test_a_run_that_cannot_be_published_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        with_checkpoint(at)
        hand_back(at)
        return Ending("exited", exit_code=0)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    engine = FakeEngine(script)
    made = runs.create

    def create(out: Path, spec: Any) -> runs.RunDirectory:
        directory = made(out, spec)
        monkeypatch.setattr(runs, "_write_durably", full)
        return directory

    monkeypatch.setattr(runs, "create", create)
    with pytest.raises(UsageFault, match="No space left") as caught:
        launch.run(
            TRAINING, engine, None, tmp_path / "out", store(tmp_path), inputs={"text": tmp_path}
        )
    path = only(tmp_path / "out")
    assert (path / "checkpoint" / "state.json").is_file()
    assert str(path) in str(caught.value.hint)


def test_text_is_told_from_the_log_and_nothing_else_is(tmp_path: Path) -> None:
    said: list[str] = []

    def script(at: Launch, on_line: OnLine) -> Ending:
        for line in (f'{TEXT_LINE}"one"', f"{TEXT_LINE}and no JSON", f"{TEXT_LINE}[1]", "text x"):
            on_line(line)
        hand_back(at)
        return Ending("exited", exit_code=0)

    _, path = launch.run(
        SPEC, FakeEngine(script), None, tmp_path / "out", store(tmp_path), on_text=said.append
    )
    assert said == ["one"]
    assert len((path / "job.log").read_text().splitlines()) == 4
