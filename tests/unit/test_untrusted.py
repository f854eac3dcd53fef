"""Trees that a hostile job may leave: read with a bound, measured, settled, never followed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from bench.host import caller, untrusted


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("a secret")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "run"
    root.mkdir()
    return root


def nest(root: Path, depth: int, name: str = "d" * 100) -> None:
    """A chain of directories, longer than a path can be."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_only_a_plain_file_within_the_bound_is_read(tree: Path, outside: Path) -> None:
    (tree / "file").write_bytes(b"x" * 100)
    assert untrusted.read(tree / "file", 100) == b"x" * 100
    assert untrusted.tail(tree / "file", 10) == b"x" * 10
    assert untrusted.tail(tree / "file", 1000) == b"x" * 100
    with pytest.raises(OSError, match="File too large"):
        untrusted.read(tree / "file", 99)
    (tree / "link").symlink_to(outside / "secret")
    os.mkfifo(tree / "pipe")  # nobody will ever write to it
    for name in ("link", "pipe", "absent", "."):
        for read in (untrusted.read, untrusted.tail):
            with pytest.raises(OSError):
                read(tree / name, 1000)


def test_what_is_measured_is_what_the_disk_gives(tree: Path, outside: Path) -> None:
    (tree / "file").write_bytes(os.urandom(100_000))
    (tree / "empty").touch()
    with (tree / "sparse").open("wb") as file:
        file.truncate(2**40)
    (tree / "link").symlink_to(outside)
    found = untrusted.measure(tree)
    assert found.files == 4 and found.hidden is None
    assert 100_000 <= found.bytes < 200_000
    assert untrusted.measure(tree, most_files=2).files == 3
    assert untrusted.measure(tree / "absent") == untrusted.Usage()


def test_a_tree_without_end_is_named_not_followed(tree: Path) -> None:
    nest(tree, 60)
    hidden = untrusted.measure(tree).hidden
    assert hidden is not None and hidden.endswith("more than 12 directories deep")
    assert untrusted.settle(tree) == [f"directory '{'d' * 100}', which is too deep"]
    assert list(tree.iterdir()) == []


def test_a_tree_of_any_depth_is_removed(tree: Path) -> None:
    nest(tree, 1100, "d")  # deeper than Python recurses
    (tree / "file").touch()
    untrusted.remove(tree)
    assert not tree.exists()
    untrusted.remove(tree)


def test_a_link_is_removed_and_what_it_names_is_not(tree: Path, outside: Path) -> None:
    (tree / "inner").mkdir()
    (tree / "inner" / "link").symlink_to(outside)
    (tree / "link").symlink_to(outside)
    untrusted.remove(tree / "link")
    untrusted.remove(tree)
    assert not tree.exists() and (outside / "secret").read_text() == "a secret"


def test_plain_files_are_what_settling_leaves(tree: Path, outside: Path) -> None:
    (tree / "kept").write_text("kept")
    (tree / "kept").chmod(0o6777)
    (tree / "shut").mkdir()
    (tree / "shut" / "file").touch(mode=0o000)
    (tree / "shut").chmod(0)
    (tree / "link").symlink_to(outside / "secret")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tree / "socket"))
    said = untrusted.settle(tree)
    assert sorted(said) == [
        f"link 'link' to {str(outside / 'secret')!r}", "pipe 'pipe'", "socket 'socket'",
    ]  # fmt: skip
    assert {path.name for path in tree.rglob("*")} == {"kept", "shut", "file"}
    assert stat.S_IMODE((tree / "kept").stat().st_mode) == 0o775
    assert stat.S_IMODE((tree / "shut" / "file").stat().st_mode) == 0o600
    assert (outside / "secret").read_text() == "a secret"
    assert untrusted.settle(tree) == []


def test_names_that_a_terminal_would_obey_are_spelled_out(tree: Path) -> None:
    (tree / "a\x1b[2J").symlink_to("b\x1b[2J")
    assert untrusted.settle(tree) == ["link 'a\\x1b[2J' to 'b\\x1b[2J'"]


def test_the_largest_files_go_first_and_those_of_the_run_stay(tree: Path) -> None:
    for name, mib in (("kept", 3), ("large", 2), ("small", 1)):
        (tree / name).write_bytes(os.urandom(mib * 2**20))
    assert untrusted.shrink(tree, 5 * 2**20, 100, ["kept"]) == ["file 'large' of 2 MiB"]
    assert untrusted.shrink(tree, 2**20, 100, ["kept"]) == ["file 'small' of 1 MiB"]
    assert [path.name for path in tree.iterdir()] == ["kept"]


def test_of_too_many_names_only_the_runs_own_stay(tree: Path) -> None:
    for number in range(20):
        (tree / f"{number}").touch()
    said = untrusted.shrink(tree, 2**30, 10, ["7"])
    assert said[-1] == "14 more" and [path.name for path in tree.iterdir()] == ["7"]


@pytest.mark.parametrize("moment", ["open", "chown"])
def test_giving_a_tree_away_follows_no_link_even_one_that_comes_meanwhile(
    tree: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A job of another run swaps a directory for a link while the store is lent to the next."""
    if os.getuid() != 0:
        pytest.skip("only root gives files away")
    (tree / "swapped").mkdir()
    (tree / "swapped" / "secret").touch()
    (tree / "link").symlink_to(outside / "secret")
    nest(tree, 20)
    real = getattr(os, moment)

    def after_the_swap(path: Any, *arguments: Any, **options: Any) -> Any:
        wanted = "swapped" if moment == "open" else "secret"
        if os.path.basename(path) == wanted and not (tree / "swapped").is_symlink():
            (tree / "swapped").rename(tree / "aside")
            (tree / "swapped").symlink_to(outside)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, moment, after_the_swap)
    caller.give(tree, (1000, 1000))
    monkeypatch.undo()
    assert (tree / "swapped").is_symlink(), "the swap was made"
    assert tree.stat().st_uid == (tree / "link").lstat().st_uid == 1000
    for path in (outside, outside / "secret"):
        assert path.stat().st_uid == 0
