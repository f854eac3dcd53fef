"""Nothing is ever half there: a run directory is partial, or published and whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bench.errors import UsageFault
from bench.host import report, runs
from bench.record import JobSpec
from tests.conftest import cannot_run
from tests.unit.samples import record


def published(out: Path) -> Path:
    directory = runs.create(out, JobSpec())
    directory.log.write_text("a line\n")
    whole = record(directory.run_id)
    return directory.publish(whole, report.markdown(whole))


def test_a_run_is_partial_until_one_rename_publishes_it(tmp_path: Path) -> None:
    directory = runs.create(tmp_path, JobSpec())
    assert directory.path.name.endswith(".partial")
    assert list(runs.listed(tmp_path)) == []
    whole = record(directory.run_id)
    path = directory.publish(whole, report.markdown(whole))
    assert not directory.path.exists()
    assert sorted(p.name for p in path.iterdir()) == ["record.json", "report.md", "spec.json"]
    assert runs.read_record(path / "record.json") == whole
    assert JobSpec.model_validate_json((path / "spec.json").read_text()) == JobSpec()


def test_two_runs_of_the_same_second_do_not_meet(tmp_path: Path) -> None:
    made = {runs.create(tmp_path, JobSpec()).path for _ in range(20)}
    assert len(made) == 20


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_truncated_record_is_named_with_its_line(tmp_path: Path, cut: int) -> None:
    path = published(tmp_path) / "record.json"
    text = path.read_text()[:cut]
    path.write_text(text)
    with pytest.raises(UsageFault) as caught:
        runs.read_record(path)
    assert f"line {text.count(chr(10)) + 1}" in caught.value.message or cut == -3
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 2


def test_a_wrong_value_is_named_with_its_line(tmp_path: Path) -> None:
    path = published(tmp_path) / "record.json"
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if '"cores"' in line)
    lines[number] = '    "cores": "two",'
    path.write_text("\n".join(lines))
    with pytest.raises(UsageFault, match=f"line {number + 1}: environment.cores"):
        runs.read_record(path)


def test_a_newer_schema_is_refused_as_newer(tmp_path: Path) -> None:
    path = published(tmp_path) / "record.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "schema_version": 2}))
    with pytest.raises(UsageFault, match="schema_version 2"):
        runs.read_record(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"schema_version": 1}', "\xff"])
def test_other_json_is_refused_not_a_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageFault):
        runs.read_record(path)


def test_an_unwritable_out_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below", tmp_path / ("long" * 100)):
        with pytest.raises(UsageFault, match="cannot write to"):
            runs.check_writable(out, JobSpec())
        with pytest.raises(UsageFault, match="cannot write to"):
            runs.create(out, JobSpec())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_publish_that_fails_leaves_nothing(tmp_path: Path) -> None:
    directory = runs.create(tmp_path, JobSpec())
    (tmp_path / directory.run_id).write_text("in the way")
    whole = record(directory.run_id)
    with pytest.raises(UsageFault, match="cannot write to"):
        directory.publish(whole, "")
    assert [p.name for p in tmp_path.iterdir()] == [directory.run_id]


def test_a_run_that_needs_more_than_there_is_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float64 reference of a big request is gigabytes; a compile writes none."""
    big = JobSpec(batch_size=8, seq_len=1024)
    assert runs.needed_mib(big) > 9000
    free = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UsageFault, match="1024 MiB are free"):
        runs.check_writable(tmp_path, big)
    runs.check_writable(tmp_path, JobSpec())
    runs.check_writable(tmp_path, big.model_copy(update={"kind": "compile"}))


def test_discarding_leaves_not_even_the_out_it_made(tmp_path: Path) -> None:
    directory = runs.create(tmp_path / "out", JobSpec())
    directory.discard()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    runs.create(tmp_path / "mine", JobSpec()).discard()
    assert (tmp_path / "mine").is_dir()


def test_under_sudo_a_published_run_belongs_to_who_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() != 0:
        cannot_run("only root can be behind sudo")
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    path = published(tmp_path / "out")
    for file in (path.parent, path, *path.iterdir()):
        assert (file.stat().st_uid, file.stat().st_gid) == (1234, 1235), file


def test_find_takes_an_id_a_part_a_path_and_last(tmp_path: Path) -> None:
    first, second = sorted([published(tmp_path), published(tmp_path)])
    assert runs.find(tmp_path, first.name) == first
    assert runs.find(tmp_path, "last") == second
    assert runs.find(tmp_path, str(first)) == first
    assert runs.find(tmp_path, second.name[-4:]) == second
    with pytest.raises(UsageFault, match="fits 2 runs"):
        runs.find(tmp_path, "gpt2")
    with pytest.raises(UsageFault, match="no run"):
        runs.find(tmp_path, "bert")
    with pytest.raises(UsageFault, match="no run"):
        runs.find(tmp_path / "absent", "last")


def test_only_a_dead_hosts_partial_run_is_stale(tmp_path: Path) -> None:
    ours = runs.create(tmp_path, JobSpec()).path
    gone = runs.create(tmp_path, JobSpec()).path
    reused = runs.create(tmp_path, JobSpec()).path
    cut = runs.create(tmp_path, JobSpec()).path
    (gone / "owner").write_text(f"{2**22 + 1}:1")
    # The pid of a dead host, taken over by another process since.
    (reused / "owner").write_text(f"{os.getpid()}:1")
    (cut / "owner").write_text("")
    assert set(runs.stale(tmp_path)) == {gone, reused, cut}
    assert ours.exists()
