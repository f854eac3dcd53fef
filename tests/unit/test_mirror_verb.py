"""`invoke mirror`: whole mirrors from a real server, and a checkout that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build.fetch.checkout import check_out
from bench.build.fetch.fault import say
from bench.build.fetch.git import Git
from bench.build.fetch.gitcache import Cache
from bench.build.fetch.lock import Lock
from bench.build.fetch.patience import Patience
from bench.errors import JobFailed, UsageFault
from bench.host.mirror import Mirrored, default_folder, update
from bench.host.mirrors import Mirrors
from tests.unit.git_server import CODE, Origin, Server, git, make_origin, serving

URL = f"{CODE}/lib/tvm.git"
ONCE = Patience(attempts=1)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    return make_origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def server(origin: Origin) -> Iterator[Server]:
    with serving(origin.root) as state:
        yield state


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": os.devnull}


def mirror(
    origin: Origin, server: Server, folder: Path, environ: dict[str, str], *urls: str
) -> list[Mirrored]:
    return update(
        [(URL, origin.commits["tvm"])],
        folder,
        say,
        urls=urls,
        mirrors=Mirrors(git={f"{CODE}/": f"{server.url}/"}),
        patience=ONCE,
        environ=environ,
    )


def test_every_repository_once_and_then_a_checkout_without_a_network(
    origin: Origin, server: Server, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    made = mirror(origin, server, folder, environ, f"{CODE}/lib/tvm")
    assert [item.state for item in made] == ["new"] * 4
    lib = folder / "code.example" / "lib"
    assert {item.path for item in made} == {
        lib / f"{name}.git" for name in ("tvm", "ffi", "dlpack", "rang")
    }
    for name, commit in origin.commits.items():
        git("fsck", cwd=lib / f"{name}.git")
        assert git("rev-parse", "main~1", cwd=lib / f"{name}.git") == commit
    before = len(server.asked)
    cache = Cache(tmp_path / "cache", Git.of(environ), ONCE, say, folder)
    lock = Lock(origin.commits["tvm"], origin.gitlinks)
    assert check_out(cache, URL, lock, tmp_path / "tvm") == 3
    assert len(server.asked) == before


def test_an_update_brings_what_is_new_and_what_no_branch_holds(
    origin: Origin, server: Server, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    mirror(origin, server, folder, environ)
    again = mirror(origin, server, folder, environ)
    assert {item.state for item in again} == {"unchanged"}
    # A commit that is on no branch, as a pull request's.
    bare = origin.root / "lib" / "rang.git"
    loose = git("commit-tree", "HEAD^{tree}", "-m", "loose", cwd=bare)
    git("update-ref", "refs/pull/1/head", loose, cwd=bare)
    made = update(
        [(f"{CODE}/lib/rang", loose)],
        folder,
        say,
        mirrors=Mirrors(git={f"{CODE}/": f"{server.url}/"}),
        environ=environ,
    )
    assert [item.state for item in made] == ["updated"]
    assert git("cat-file", "-t", loose, cwd=made[0].path) == "commit"


def test_what_is_cut_leaves_whole_mirrors_only_and_goes_on(
    origin: Origin, server: Server, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    lib = folder / "code.example" / "lib"
    (lib / "tvm.git.partial").mkdir(parents=True)  # what a killed call left
    server.trouble = [lambda body: body, lambda body: body[: len(body) // 2]]
    with pytest.raises(JobFailed, match=r"lib/ffi\.git") as caught:
        mirror(origin, server, folder, environ)
    assert caught.value.hint
    assert [path.name for path in lib.iterdir()] == ["tvm.git"]
    made = mirror(origin, server, folder, environ)
    assert [item.state for item in made] == ["unchanged", "new", "new", "new"]


def test_a_folder_that_cannot_be_made(
    origin: Origin, server: Server, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageFault, match="cannot write"):
        mirror(origin, server, tmp_path / "file" / "mirror", environ)
    assert server.asked == []


def test_where_mirrors_lie_unless_said_otherwise(tmp_path: Path) -> None:
    at_home = tmp_path / ".cache" / "gpt-frontend" / "mirror"
    assert default_folder({"HOME": str(tmp_path)}) == at_home
    elsewhere = {"HOME": str(tmp_path), "XDG_CACHE_HOME": "/var/cache/me"}
    assert default_folder(elsewhere) == Path("/var/cache/me/gpt-frontend/mirror")
