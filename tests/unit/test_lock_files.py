"""What the lock reads and writes: agreement, edits in place, all files or none, the verb."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host.lock import agreement, edit, python, verbs, write
from bench.host.lock.part import Part
from bench.host.mirrors import Mirrors
from bench.host.pins import load
from tests.conftest import ROOT
from tests.unit import registry_server
from tests.unit.registry_server import Registry, digest, wheel
from tests.unit.test_tasks import invoke, refused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PINS = (ROOT / "docker" / "pins.toml").read_text(encoding="utf-8")


# --- an edit in its place ---


def test_an_edit_changes_one_value_and_no_other_character() -> None:
    place = ("sources", "0.23.0", "gitlinks", "3rdparty/rang")
    text = edit.edited(PINS, {place: "f" * 40, ("versions", "torch"): "9.9.9"})
    before, after = PINS.splitlines(), text.splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert changed == [
        ('torch = "2.13.0"', 'torch = "9.9.9"'),
        (
            '"3rdparty/rang" = "cabe04d6d6b05356fa8f9741704924788f0dd762"',
            f'"3rdparty/rang" = "{"f" * 40}"',
        ),
    ]


def test_a_comment_behind_a_value_stays() -> None:
    text = edit.edited(PINS, {("sources", "0.23.0", "tvm_ffi"): "0.1.9"})
    assert 'tvm_ffi = "0.1.9" # the release nearest' in text


def test_a_number_is_rewritten() -> None:
    text = edit.edited(PINS, {("sources", "0.23.0", "source_date_epoch"): 1})
    assert "source_date_epoch = 1 # of the commit" in text


def test_a_key_is_added_at_the_end_of_its_table_and_taken_out() -> None:
    table = ("sources", "0.26.0", "gitlinks")
    text = edit.edited(
        PINS,
        {
            (*table, "3rdparty/new"): "a" * 40,
            (*table, "3rdparty/cutlass"): None,
            ("sources", "0.26.0", "read_by_parent"): [],
        },
    )
    found = tomllib.loads(text)["sources"]["0.26.0"]
    assert found["gitlinks"]["3rdparty/new"] == "a" * 40
    assert "3rdparty/cutlass" not in found["gitlinks"] and found["read_by_parent"] == []
    assert re.search(r'libbacktrace" = "\w+"\n"3rdparty/new" = "a+"\n\n\[llvm', text)


@pytest.mark.parametrize(
    "place",
    [("nowhere", "key"), ("versions", "torch", "deeper"), ("profiles", "cpu", "budget_gib")],
)
def test_a_place_that_cannot_be_rewritten_is_refused(place: tuple[str, ...]) -> None:
    with pytest.raises(UsageFault, match=r"no table|cannot rewrite"):
        edit.edited(PINS, {place: "x"})


# --- all files or none ---


def test_files_are_written_together_with_their_modes(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("before")
    old.chmod(0o640)
    write.together({old: "after", new: "first"})
    assert (old.read_text(), new.read_text()) == ("after", "first")
    assert old.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_failure_on_the_way_leaves_every_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    one.write_text("1")
    three.write_text("3")
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == "three" and self.name.endswith(".new"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageFault, match="could not be written"):
        write.together({one: "changed", two: "added", three: "changed"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "one": "1",
        "three": "3",
    }


def test_a_folder_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_text("1")
    with pytest.raises(UsageFault):
        write.together({one: "changed", tmp_path / "none" / "two": "2"})
    assert one.read_text() == "1" and len(list(tmp_path.iterdir())) == 1


# --- agreement ---


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    """A copy of the project's own."""
    return Path(shutil.copytree(ROOT / "docker" / "locks", tmp_path / "docker" / "locks"))


def test_the_projects_own_locks_agree(locks: Path) -> None:
    assert agreement.drift(load(), locks) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("requirements.in", "torch==2.13.0", "torch==2.12.0", "torch==2.12.0, locked is 2.13.0"),
        ("requirements.in", "invoke ", "nowhere-at-all ", "nowhere-at-all, which no lock has"),
        ("build.in", "cmake>=3.24,<4", "cmake>=4", "cmake>=4, locked is 3.31.10"),
        (
            "tvm.txt",
            "apache-tvm==0.27.0.post1",
            "apache-tvm==0.27.0",
            "versions.tvm is 0.27.0.post1",
        ),
        ("torch.txt", "torch==2.13.0", "torch>=2.13.0", "torch is not one version with its hashes"),
        ("cuda.txt", "cuda-toolkit==13.0", "cuda-toolkit==12.0", "versions.torch_cuda is 13.0"),
    ],
)
def test_what_no_longer_agrees_is_named(
    locks: Path, file: str, old: str, new: str, said: str
) -> None:
    text = (locks / file).read_text()
    assert old in text
    (locks / file).write_text(re.sub(rf"^{re.escape(old)}", new, text, flags=re.MULTILINE))
    assert said in " | ".join(agreement.drift(load(), locks))


def test_a_lock_that_is_gone_is_named(locks: Path) -> None:
    (locks / "build.txt").unlink()
    assert any("build.txt: No such file" in one for one in agreement.drift(load(), locks))


# --- Python's locks, by the real resolver on an index of our own ---

SMALL = ("torch", "apache-tvm", "apache-tvm-ffi", "nvidia-thing", "some-package")


@pytest.fixture
def index() -> Iterator[Registry]:
    with registry_server.serving(Registry({"library/debian": {"bookworm-slim": "now"}})) as state:
        for name in SMALL:
            state.publish(name, "1.0")
        yield state


@pytest.fixture
def small(tmp_path: Path, index: Registry) -> Path:
    """A project whose only list asks for five packages, resolved once."""
    folder = tmp_path / "small" / "docker" / "locks"
    folder.mkdir(parents=True)
    for name in ("update.sh", "split.py", "torch-cpu-hashes.txt"):
        shutil.copy2(ROOT / "docker" / "locks" / name, folder)
    shutil.copy2(ROOT / "pyproject.toml", folder.parents[1])
    (folder / "requirements.in").write_text("".join(f"{name}\n" for name in SMALL))
    for name in ("requirements", "tvm", "torch", "torch-cuda"):
        (folder / f"{name}.txt").write_text("")
    part = resolved(folder.parents[1], index)
    assert part.unasked == []
    write.together(part.files)
    return folder.parents[1]


def resolved(root: Path, index: Registry, tvm: str = "1.0") -> Part:
    versions = {"torch": "1.0", "tvm": tvm, "tvm_ffi": "1.0"}
    pins = load().model_copy(update={"versions": load().versions.model_copy(update=versions)})
    environ = {**os.environ, "UV_CACHE_DIR": str(root.parent / "uv")}
    return python.resolve(pins, root, Mirrors(pip=index.index), environ, offline=False)


def test_a_new_release_alone_is_no_drift_and_an_edited_list_is(
    small: Path, index: Registry
) -> None:
    index.publish("some-package", "2.0")
    assert resolved(small, index).files == {}
    path = small / "docker" / "locks" / "requirements.in"
    path.write_text(path.read_text().replace("some-package", "some-package>=2"))
    part = resolved(small, index)
    (change,) = part.changes
    assert change.place == "docker/locks/requirements.txt: some-package"
    assert (change.old, change.new) == ("1.0", "2.0")
    assert [file.name for file in part.files] == ["requirements.txt"]
    assert "some-package==1.0" in (small / "docker/locks/requirements.txt").read_text()


def test_a_pin_that_has_moved_moves_the_lock_and_no_further(small: Path, index: Registry) -> None:
    index.publish("apache-tvm", "1.1", "1.2")
    index.publish("some-package", "2.0")
    (change,) = resolved(small, index, tvm="1.1").changes
    assert change.place == "docker/locks/tvm.txt: apache-tvm"
    assert (change.old, change.new) == ("1.0", "1.1")


def test_a_file_that_is_new_or_gone_on_the_index_is_a_change_of_hashes(
    small: Path, index: Registry
) -> None:
    name = "nvidia_thing-1.0-py3-none-any.whl"
    index.files[f"/files/{name}"] = wheel("nvidia-thing", "1.0", "built once more")
    (change,) = resolved(small, index).changes
    assert "1 more, 1 gone" in change.meaning and "was deleted or replaced" in change.meaning


def test_an_index_that_lacks_a_package_leaves_the_locks_not_checked(
    small: Path, index: Registry
) -> None:
    del index.projects["some-package"]
    part = resolved(small, index)
    assert "some-package" in part.unasked[0].why and not part.files


# --- the verb ---


@pytest.fixture
def project(tmp_path: Path, locks: Path) -> Path:
    """The files that the verb reads and writes."""
    shutil.copy2(ROOT / "docker" / "pins.toml", locks.parent)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(project: Path, index: Registry, *, check: bool, only: str = "base") -> None:
    ways = [f"registry={index.host}"]
    verbs.lock(only, ways, check=check, offline=False, root=project, environ={"HOME": "/nowhere"})


def test_check_names_what_drifted_and_writes_nothing(
    project: Path, index: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobFailed, match="3 drifted") as caught:
        run(project, index, check=True)
    assert caught.value.exit_code == 1 and "docs/locking.md" in str(caught.value.hint)
    said = capsys.readouterr()
    assert f"profiles.cpu.base\n  - {load().profile('cpu').base.partition('@')[2]}" in said.out
    assert f"  + {digest('now')}" in said.out and "was published anew" in said.out
    assert "not checked: profiles.llvm10.base" in said.err
    assert (project / "docker" / "pins.toml").read_text() == PINS


def test_lock_writes_what_changed_and_its_exit_code_tells_what_was_not_asked(
    project: Path, index: Registry
) -> None:
    with pytest.raises(verbs.NotAsked, match="2 could not be asked") as caught:
        run(project, index, check=False)
    assert caught.value.exit_code == 3
    found = load(project / "docker" / "pins.toml")
    assert found.profile("cpu").base == f"debian:bookworm-slim@{digest('now')}"
    assert found.profile("llvm10").base == load().profile("llvm10").base
    with pytest.raises(verbs.NotAsked):  # and now nothing has drifted
        run(project, index, check=True)


def test_everything_asked_and_as_locked_is_success(project: Path, index: Registry) -> None:
    tags = index.images["nvidia/cuda"] = {}
    for name in ("llvm10", "latest"):
        tags[load().profile(name).base.partition("@")[0].partition(":")[2]] = name
    run(project, index, check=False)
    run(project, index, check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "kernel"], "no part of the lock: kernel"),
        (["--offline"], "--offline resolves nothing"),
        (["--check", "--offline", "--only", "base"], "cannot be checked without a network"),
        (["--mirror", "registry"], "is not NAME=URL"),
    ],
)
def test_bad_options_of_lock_exit_2(arguments: list[str], said: str) -> None:
    assert said in refused(invoke("lock", *arguments))


def test_the_lock_of_this_very_checkout_holds_as_far_as_no_network_is_needed() -> None:
    done = invoke("lock", "--check", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
