"""The index says what the run directories say, whatever has become of either."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.host import runs
from bench.host.history import entry, identity, query
from bench.host.history import index as indexes
from bench.host.history.query import Filters
from bench.record import RunRecord
from tests.conftest import ROOT
from tests.unit import samples
from tests.unit.histories import publish, record, rounds

EVERY = Filters()


def listed(out: Path) -> list[entry.Entry]:
    return query.find(out, EVERY).entries


def truth(out: Path) -> list[entry.Entry]:
    """What the directories say, without any index."""
    found = []
    for path in runs.listed(out):
        try:
            found.append(entry.of(path.name, runs.read_record(path / runs.RECORD)))
        except Exception:
            continue
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs whose records are read from now on."""
    names: list[str] = []
    real = identity.read

    def read(directory: Path) -> RunRecord:
        names.append(directory.name)
        return real(directory)

    monkeypatch.setattr(identity, "read", read)
    return names


def old(path: Path, age_s: float = 100.0) -> None:
    """Make the record of a run older than the time within which a change may not show."""
    file = path / runs.RECORD
    then = file.stat().st_mtime - age_s
    os.utime(file, (then, then))


def three(out: Path) -> list[Path]:
    made = [publish(out, record(f"run-{number}")) for number in range(3)]
    for path in made:
        old(path)
    return made


def test_a_listing_is_what_the_records_say(tmp_path: Path) -> None:
    publish(tmp_path, samples.record())
    (found,) = listed(tmp_path)
    assert found.run == samples.record().run_id
    assert (found.before_ms, found.after_ms, found.outcome) == (10_000.0, 200.0, "50.0x")
    assert found.machine == "A CPU, 2 cores"
    assert [one.backend for one in found.measured] == [r.backend for r in samples.record().results]


def test_a_record_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    three(tmp_path)
    first = listed(tmp_path)
    assert sorted(reads) == ["run-0", "run-1", "run-2"]
    reads.clear()
    assert listed(tmp_path) == first
    assert reads == []


def test_what_changed_is_read_again_and_nothing_else(tmp_path: Path, reads: list[str]) -> None:
    paths = three(tmp_path)
    listed(tmp_path)
    reads.clear()
    shutil.rmtree(paths[0])
    file = paths[1] / runs.RECORD
    file.write_text(file.read_text().replace("A CPU", "B CPU"))  # of the same size
    old(paths[1], 50)
    publish(tmp_path, record("run-3"))
    assert [one.run for one in listed(tmp_path)] == ["run-1", "run-2", "run-3"]
    assert listed(tmp_path)[0].machine == "B CPU, 2 cores"
    assert set(reads) == {"run-1", "run-3"}


def test_a_change_within_the_clocks_tick_is_seen(tmp_path: Path) -> None:
    """Same size, same times, the same file: only its age tells that it may not be trusted."""
    path = publish(tmp_path, record("run-0"))
    file = path / runs.RECORD
    before = file.stat()
    assert listed(tmp_path)[0].machine == "A CPU, 2 cores"
    file.write_text(file.read_text().replace("A CPU", "B CPU"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert listed(tmp_path)[0].machine == "B CPU, 2 cores"


def test_deleting_the_index_loses_nothing(tmp_path: Path) -> None:
    three(tmp_path)
    first = listed(tmp_path)
    (tmp_path / indexes.INDEX).unlink()
    assert listed(tmp_path) == first == truth(tmp_path)
    assert (tmp_path / indexes.INDEX).is_file()


@settings(max_examples=25)
@given(data=st.data())
def test_a_damaged_index_is_made_anew(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    three(out)
    first = listed(out)
    file = out / indexes.INDEX
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    if data.draw(st.booleans(), label="cut"):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255), label="flip")
    file.write_bytes(content)
    assert listed(out) == first
    assert indexes._whole(file.read_bytes())


def test_an_index_made_by_other_code_is_not_believed(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that this version cannot read may be read by the next."""
    three(tmp_path / "out")
    listed(tmp_path / "out")
    reads.clear()
    other = tmp_path / "entry.py"
    other.write_text(Path(entry.__file__).read_text() + "# changed\n")
    monkeypatch.setattr(entry, "__file__", str(other))
    listed(tmp_path / "out")
    assert len(reads) == 3


@settings(max_examples=20)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["add", "remove", "edit", "damage", "list"]), st.integers(0, 3)),
        max_size=15,
    )
)
def test_whatever_happens_to_the_directories_the_listing_follows(
    moves: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    for number, (move, which) in enumerate(moves):
        path = out / f"run-{which}"
        if move == "list":
            assert listed(out) == truth(out)
        elif move == "add" and not path.exists():
            publish(out, record(path.name, {"tvm-none": rounds(5.0 + number)}))
        elif move == "remove":
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists():
            file = path / runs.RECORD
            text = file.read_text()
            file.write_text(text[:-20] if move == "damage" else text.replace("A CPU", "B CPU"))
    assert listed(out) == truth(out)


HOSTILE = {
    "truncated": ('{\n  "schema_version": 1,\n', "line 3"),
    "newer": ('{"schema_version": 2}', "schema_version 2"),
    "nested": ("[" * 200_000, "recursion"),
    "digits": ('{"schema_version": ' + "9" * 10_000 + "}", "digits"),
    "binary": ("\x00\x01", "line 1"),
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_bad_record_is_named_and_the_rest_is_listed(tmp_path: Path, damage: str) -> None:
    paths = three(tmp_path)
    text, said = HOSTILE[damage]
    (paths[1] / runs.RECORD).write_text(text)
    for _ in range(2):  # read, and from the index
        found = query.find(tmp_path, EVERY)
        assert [one.run for one in found.entries] == ["run-0", "run-2"]
        (problem,) = found.problems
        assert str(paths[1]) in problem and said in problem
        assert found.total == 3


def test_names_and_texts_that_are_no_text_are_listed_inert(tmp_path: Path) -> None:
    made = record("plain", where=samples.environment().model_copy(update={"cpu": "\x1b[31mred\n"}))
    text = runs.to_json(made).replace('"batch_size": 1', f'"batch_size": {10**40}')
    text = text.replace('"engine": "local"', '"engine": "\\ud800"')
    directory = os.fsencode(tmp_path) + b"/run-\xff\x1b[2J"
    os.mkdir(directory)
    with open(directory + b"/record.json", "w") as file:
        file.write(text)
    for _ in range(2):
        found = query.find(tmp_path, EVERY)
        (one,) = found.entries
        assert one.batch_size == str(10**40)
        for shown in (one.run, one.machine, one.engine):
            assert shown is not None and shown.isprintable()
        assert found.directories == [os.path.basename(directory)]


def test_partial_runs_and_other_folders_are_not_listed(tmp_path: Path) -> None:
    publish(tmp_path, record("run.partial"))
    (tmp_path / "contracts").mkdir()
    (tmp_path / "folder" / runs.RECORD).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert listed(tmp_path) == []
    assert listed(tmp_path / "absent") == [] and not (tmp_path / "absent").exists()


def test_an_index_that_cannot_be_kept_hinders_nothing(tmp_path: Path) -> None:
    (tmp_path / indexes.INDEX).mkdir()
    three(tmp_path)
    assert len(listed(tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        indexes.INDEX, "run-0", "run-1", "run-2",
    ]  # fmt: skip


def test_an_interrupted_reading_goes_on_where_it_was(tmp_path: Path, reads: list[str]) -> None:
    for number in range(150):
        old(publish(tmp_path, record(f"run-{number:03}")))

    def interrupt(said: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        indexes.open_index(tmp_path, interrupt)
    assert len(reads) == 100
    assert len(listed(tmp_path)) == 150
    assert sorted(reads) == sorted(set(reads))


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    fresh, abandoned = (tmp_path / f"{indexes.INDEX}.{name}.tmp" for name in ("new", "old"))
    fresh.write_text("")
    abandoned.write_text("")
    os.utime(abandoned, (1, 1))
    three(tmp_path)
    listed(tmp_path)
    assert fresh.exists() and not abandoned.exists()


def test_many_at_once_all_see_everything(tmp_path: Path) -> None:
    """Readers that are writers too, while the index is taken away under them."""
    for number in range(20):
        old(publish(tmp_path, record(f"run-{number:02}")))
    code = (
        "import sys, pathlib\n"
        "from bench.host.history import index, query\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "for turn in range(6):\n"
        "    assert len(query.find(out, query.Filters()).entries) == 20\n"
        "    if turn % 3 == 2: (out / index.INDEX).unlink(missing_ok=True)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(3)
    ]
    assert [one.wait() for one in started] == [0] * 3
    assert len(listed(tmp_path)) == 20
    assert not list(tmp_path.glob(f"{indexes.INDEX}.*"))


def test_the_file_is_a_database_that_other_programs_open(tmp_path: Path) -> None:
    three(tmp_path)
    listed(tmp_path)
    with sqlite3.connect(tmp_path / indexes.INDEX) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert opened.execute("SELECT count(*) FROM runs WHERE problem IS NULL").fetchone() == (3,)


def paths_of(tree: Path) -> Iterator[str]:
    yield from sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


def test_a_listing_leaves_nothing_but_the_index(tmp_path: Path) -> None:
    three(tmp_path)
    before = set(paths_of(tmp_path))
    listed(tmp_path)
    assert set(paths_of(tmp_path)) - before == {indexes.INDEX}
