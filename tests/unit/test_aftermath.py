"""A run whose job tampered with it is published as the host knows it, and the host says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.host import launch, owner, runs
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.fake import FakeEngine
from bench.host.engine.limits import Limits
from bench.host.store import Store
from bench.record import JobSpec

SPEC = JobSpec(model="gpt-nano", backends=("tvm-none",))
MIB = 2**20


def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", limit_bytes=2**20)


def test_links_in_the_place_of_files_are_not_written_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")

    def script(at: Launch, on_line: OnLine) -> Ending:
        on_line("a word")
        for name in ("job.log", "spec.json"):
            (at.run_dir / name).unlink()
        for name in ("record.json", "report.md", "job.log", "spec.json", "outcome.json"):
            (at.run_dir / name).symlink_to(secret)
        on_line("another word")
        return Ending("exited", exit_code=0)

    record, path = launch.run(SPEC, FakeEngine(script), None, tmp_path / "out", store(tmp_path))
    assert record.reason == "the job ended without an outcome"
    assert secret.read_text() == "a secret"
    assert not any(one.is_symlink() for one in path.iterdir())
    assert (path / "job.log").read_text() == "a word\nanother word\n"
    assert JobSpec.model_validate_json((path / "spec.json").read_text()) == SPEC
    assert runs.read_record(path / "record.json") == record
    said = capsys.readouterr().err
    assert "removed the link 'record.json'" in said
    assert "wrote spec.json anew" in said and "wrote job.log anew" in said


def test_of_a_run_over_its_disk_budget_the_largest_files_go_and_are_named(tmp_path: Path) -> None:
    def script(at: Launch, on_line: OnLine) -> Ending:
        on_line("a word")
        (at.run_dir / "endless").write_bytes(b"x" * 4 * MIB)
        (at.run_dir / "small").write_bytes(b"x" * 1000)
        (at.run_dir / "checkpoint").mkdir()
        (at.run_dir / "checkpoint" / "weights").write_bytes(b"x" * MIB)
        return Ending("disk budget", detail="over 3 MiB")

    limits = Limits(disk=3 * MIB)
    record, path = launch.run(
        SPEC, FakeEngine(script), None, tmp_path / "out", store(tmp_path), limits=limits
    )
    assert record.reason == "disk budget: over 3 MiB; removed the file 'endless' of 4 MiB"
    assert (path / "small").is_file() and (path / "checkpoint" / "weights").is_file()
    assert not (path / "endless").exists()


def test_a_log_is_bounded_and_its_tail_is_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_LOG_BYTES", 1000)

    def script(at: Launch, on_line: OnLine) -> Ending:
        for number in range(1000):
            on_line(f"line {number}")
        return Ending("exited", exit_code=0)

    _, path = launch.run(SPEC, FakeEngine(script), None, tmp_path / "out", store(tmp_path))
    assert (path / "job.log").stat().st_size < 1100
    assert launch.log_tail(path)[-1] == "the log ends here: it is too long"


def test_a_pipe_in_the_owners_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    directory = runs.create(tmp_path, SPEC)
    (directory.path / "owner").unlink()
    os.mkfifo(directory.path / "owner")
    assert list(runs.stale(tmp_path)) == [directory.path]
    runs.remove_stale(directory.path)
    assert list(tmp_path.iterdir()) == []


def test_an_owner_of_another_namespace_is_not_judged() -> None:
    pid, start, where = owner.mine().split(":")
    assert owner.alive(f"{pid}:{start}:{where}")
    assert owner.alive(f"{pid}:{start}"), "as runs of before say it"
    assert not owner.alive(f"{pid}:{int(start) - 1}:{where}")
    assert not owner.alive(f"{pid}:{int(start) - 1}")
    assert owner.alive(f"{pid}:{int(start) - 1}:{int(where) + 1}")
    assert not owner.alive("")
