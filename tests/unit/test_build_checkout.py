"""A recursive checkout by real git from a real server: cut, refused, damaged, resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.checkout_step import URL, Run, arguments, assert_whole, environment, runner
from tests.unit.git_server import CODE, Origin, Server, git, make_origin, serving


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    return make_origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def server(origin: Origin) -> Iterator[Server]:
    with serving(origin.root) as state:
        yield state


@pytest.fixture
def environ(tmp_path: Path, server: Server) -> dict[str, str]:
    return environment(tmp_path, server)


@pytest.fixture
def run(origin: Origin, tmp_path: Path, environ: dict[str, str]) -> Run:
    return runner(origin, tmp_path, environ)


def test_whole_tree_and_nothing_of_the_mirror_in_it(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    tree = tmp_path / "tvm"
    assert_whole(tree, origin)
    assert git("config", "remote.origin.url", cwd=tree) == URL
    assert git("config", "submodule.ffi.url", cwd=tree) == f"{CODE}/lib/ffi.git"
    nested = git("config", "remote.origin.url", cwd=tree / "3rdparty/ffi/3rdparty/dlpack")
    assert nested == f"{CODE}/lib/dlpack.git"
    assert git("rev-list", "--count", "HEAD", cwd=tree) == "1"
    assert re.fullmatch("[0-9a-f]{7,}", git("describe", "--always", "--dirty", cwd=tree))
    for word in (str(server.port), str(tmp_path / "cache"), "insteadOf"):
        named = [f for f in tree.rglob("*") if f.is_file() and word.encode() in f.read_bytes()]
        assert not named, word
    assert not list(tree.rglob("FETCH_HEAD"))
    # The tree lives without its cache and under another name.
    (tmp_path / "cache").rename(tmp_path / "away")
    assert_whole(tree.rename(tmp_path / "elsewhere"), origin)
    git("fsck", cwd=tmp_path / "elsewhere")


def test_a_second_checkout_asks_the_server_nothing(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    assert run().returncode == 0
    assert sorted(server.fetched()) == ["dlpack.git", "ffi.git", "rang", "tvm.git"]
    before = list(server.asked)
    assert run("--into", str(tmp_path / "again")).returncode == 0
    assert server.asked == before
    assert_whole(tmp_path / "again", origin)


def test_settings_come_from_the_environment_too(
    environ: dict[str, str], origin: Origin, tmp_path: Path
) -> None:
    links = [f"{path} {sha}" for path, sha in origin.gitlinks.items() if "dlpack" not in path]
    environ |= {
        "SOURCE_URL": URL,
        "SOURCE_COMMIT": origin.commits["tvm"],
        "SOURCE_GITLINKS": "\n".join(links),
        "SOURCE_BY_PARENT": "3rdparty/ffi/3rdparty/dlpack\n",
    }
    argv = [sys.executable, "-m", "bench.build.fetch.checkout", "--into", "tvm", "--cache", "cache"]
    subprocess.run(argv, env=environ, cwd=tmp_path, check=True)
    assert_whole(tmp_path / "tvm", origin)


def test_a_cut_clone_goes_on_where_it_was(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    # The first repository (tvm) arrives, the second is cut on every attempt.
    cut = [lambda body: body[: len(body) // 2]] * 2
    server.trouble = [lambda body: body, *cut]
    failed = run("--attempts", "2")
    assert failed.returncode == 1
    assert "lib/ffi.git" in failed.stderr and "(3rdparty/ffi)" in failed.stderr
    assert "given up after 2 attempts" in failed.stderr
    assert "hint:" in failed.stderr
    assert "attempt 2 of 2" in failed.stdout
    assert not (tmp_path / "tvm").exists() and not (tmp_path / "tvm.partial").exists()
    assert server.fetched() == ["tvm.git", "ffi.git", "ffi.git"]
    for repository in (tmp_path / "cache").glob("*.git"):
        git("fsck", cwd=repository)
    assert run().returncode == 0
    assert server.fetched()[3:] == ["ffi.git", "dlpack.git", "rang"]
    assert_whole(tmp_path / "tvm", origin)


def test_trouble_that_passes_is_outlasted(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    server.refuses = 1
    server.trouble = [lambda body: body[:2000]]
    done = run()
    assert done.returncode == 0, done.stderr
    assert "503" in done.stdout
    assert len(re.findall(r"lib/tvm.git at .*; attempt \d of 5 in", done.stdout)) == 2
    assert_whole(tmp_path / "tvm", origin)


@pytest.mark.parametrize("kind", ["old", "dumb"])
def test_a_server_that_gives_no_single_commit(
    run: Run, origin: Origin, server: Server, tmp_path: Path, kind: str
) -> None:
    alias = origin.root / "lib" / "rang"  # a server of files does not know names without .git
    if kind == "dumb" and not alias.exists():
        alias.symlink_to("rang.git")
    setattr(server, kind, True)
    done = run()
    assert done.returncode == 0, done.stderr
    assert "fetching all of it" in done.stdout
    assert_whole(tmp_path / "tvm", origin)


def test_killed_in_mid_transfer_and_taken_up_again(
    origin: Origin, server: Server, tmp_path: Path, environ: dict[str, str], run: Run
) -> None:
    server.hang = threading.Event()
    argv = arguments(origin, tmp_path)
    with subprocess.Popen(argv, env=environ, cwd=tmp_path, start_new_session=True) as process:
        assert server.hanging.wait(60)
        os.killpg(process.pid, signal.SIGKILL)
    # What a git that is killed leaves at other moments.
    repository = next((tmp_path / "cache").glob("*.git"))
    for stale in ("shallow.lock", "config.lock", "packed-refs.lock"):
        (repository / stale).touch()
    (repository / "objects" / "pack" / "tmp_pack_x").write_bytes(b"half")
    server.hang.set()
    server.hang = None
    done = run()
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "tvm", origin)
    assert not list(repository.rglob("*.lock")) and not list(repository.rglob("tmp_*"))


def test_ctrl_c_ends_it_with_a_word_and_leaves_no_tree(
    origin: Origin, server: Server, tmp_path: Path, environ: dict[str, str]
) -> None:
    server.hang = threading.Event()
    with subprocess.Popen(
        arguments(origin, tmp_path),
        env=environ,
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert server.hanging.wait(60)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("error: interrupted\nhint: run it again")
    assert not (tmp_path / "tvm").exists() and not (tmp_path / "tvm.partial").exists()


def test_two_builds_at_once_share_one_fetch(
    origin: Origin, server: Server, tmp_path: Path, environ: dict[str, str]
) -> None:
    processes = [
        subprocess.Popen(
            [*arguments(origin, tmp_path), "--into", str(tmp_path / name)],
            env=environ,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )
        for name in ("one", "two")
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert sorted(server.fetched()) == ["dlpack.git", "ffi.git", "rang", "tvm.git"]
    for name in ("one", "two"):
        assert_whole(tmp_path / name, origin)


def test_a_damaged_cache_is_fetched_anew(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    assert run().returncode == 0
    damaged = 0
    for pack in (tmp_path / "cache").glob("tvm-*.git/objects/**/*"):
        if pack.is_file() and pack.suffix in (".pack", ""):
            content = bytearray(pack.read_bytes())
            pack.chmod(0o644)
            middle = len(content) // 2
            content[middle : middle + 64] = bytes(64)
            pack.write_bytes(content)
            damaged += 1
    assert damaged
    before = len(server.fetched())
    done = run("--into", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert server.fetched()[before:] == ["tvm.git"]
    assert_whole(tmp_path / "again", origin)


def test_objects_come_from_the_local_mirror_first(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror" / "code.example" / "lib"
    mirror.mkdir(parents=True)
    for name in ("tvm", "ffi", "rang"):
        git("clone", "-q", "--mirror", str(origin.root / "lib" / f"{name}.git"), cwd=mirror)
    done = run("--reference", str(tmp_path / "mirror"))
    assert done.returncode == 0, done.stderr
    assert server.fetched() == ["dlpack.git"]
    assert_whole(tmp_path / "tvm", origin)
    named = [f for f in (tmp_path / "tvm").rglob("*") if f.is_file()]
    assert not [f for f in named if str(mirror).encode() in f.read_bytes()]


def test_a_commit_that_the_server_does_not_have(run: Run, server: Server) -> None:
    absent = "12" * 20
    done = run("--commit", absent)
    assert done.returncode == 1
    assert f"error: {URL} at {absent[:12]}: " in done.stderr and "not our ref" in done.stderr
    assert "hint: the server does not have this commit" in done.stderr
    assert server.fetched() == ["tvm.git"], "what cannot change is not tried again"
