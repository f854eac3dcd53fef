"""A checkout held against its lock, and the commands that mend what is not as locked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build.fetch.fault import Fault
from bench.build.fetch.gitcache import layout
from bench.build.fetch.submodules import absolute_url
from tests.unit.checkout_step import URL, Run, assert_whole, environment, runner
from tests.unit.git_server import Origin, Server, git, make_origin, serving


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


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        (
            {"3rdparty/rang": "1" * 40},
            "3rdparty/rang: different: checked out {rang}, locked 1111",
            "{rang}",
        ),
        (
            {"3rdparty/rang": ""},
            "3rdparty/rang: a submodule that is not locked, at {rang}",
            'add it to the gitlinks of the source in docker/pins.toml: "3rdparty/rang" = "{rang}"',
        ),
        (
            {"3rdparty/zlib": "2" * 40},
            "3rdparty/zlib: locked at 2222222222222222222222222222222222222222, but the tree",
            "take it out of docker/pins.toml",
        ),
        (
            {"3rdparty/ffi/3rdparty/dlpack": "3" * 40},
            "3rdparty/ffi/3rdparty/dlpack: different: checked out {dlpack}, locked 3333",
            "docker/pins.toml",
        ),
    ],
)
def test_a_tree_that_is_not_the_locked_one(
    run: Run, origin: Origin, tmp_path: Path, changed: dict[str, str], message: str, hint: str
) -> None:
    done = run(**changed)
    assert done.returncode == 1
    assert f"error: {message.format(**origin.commits)}" in done.stderr
    told = next(line for line in done.stderr.splitlines() if line.startswith("hint:"))
    assert hint.format(**origin.commits) in told
    assert not (tmp_path / "tvm").exists()


def test_verifying_a_tree_and_the_commands_that_mend_it(
    run: Run, origin: Origin, environ: dict[str, str], tmp_path: Path
) -> None:
    assert run().returncode == 0
    tree = tmp_path / "tvm"

    def verify(*more: str) -> subprocess.CompletedProcess[str]:
        return run("--verify-only", str(tree), *more)

    def mend(errors: str) -> None:
        commands = [line[6:] for line in errors.splitlines() if line.startswith("hint: ")]
        assert commands
        for command in commands:
            subprocess.run(["sh", "-c", command], env=environ, check=True, capture_output=True)

    assert verify().returncode == 0
    # Missing: at the top, and one within another.
    git("submodule", "deinit", "-f", "3rdparty/rang", cwd=tree)
    git("submodule", "deinit", "-f", "3rdparty/dlpack", cwd=tree / "3rdparty/ffi")
    done = verify()
    assert done.returncode == 1
    rang, dlpack = origin.commits["rang"], origin.commits["dlpack"]
    expected = f"error: 3rdparty/rang: missing: nothing checked out, locked {rang}\n"
    assert expected in done.stderr
    assert f"3rdparty/ffi/3rdparty/dlpack: missing: nothing checked out, locked {dlpack}" in (
        done.stderr
    )
    mend(done.stderr)
    assert_whole(tree, origin)
    # Different: another commit checked out.
    other = git(
        "-C", str(tree / "3rdparty/rang"), "commit-tree", "HEAD^{tree}", "-m", "x", cwd=tree
    )
    git("checkout", "-q", other, cwd=tree / "3rdparty/rang")
    done = verify("--own-gitlinks")
    assert done.returncode == 1
    expected = f"3rdparty/rang: different: checked out {other}, its parent records {rang}"
    assert expected in done.stderr
    mend(done.stderr)
    # Files gone, which `git submodule status` does not look at.
    (tree / "3rdparty/ffi/ffi.txt").unlink()
    done = verify()
    assert done.returncode == 1
    assert "3rdparty/ffi: 1 files of its commit are not there, such as ffi.txt" in done.stderr
    mend(done.stderr)
    # The outer one missing: what is in it cannot be seen.
    git("submodule", "deinit", "-f", "3rdparty/ffi", cwd=tree)
    done = verify()
    assert done.returncode == 1
    assert "3rdparty/ffi, which holds it, is not checked out" in done.stderr
    mend(done.stderr)
    assert verify().returncode == 0
    assert verify("--own-gitlinks").returncode == 0


def test_a_submodule_that_its_parent_fixes_must_still_be_there(
    run: Run, tmp_path: Path, origin: Origin
) -> None:
    path = "3rdparty/ffi/3rdparty/dlpack"
    assert run("--by-parent", path, **{path: ""}).returncode == 0
    tree = tmp_path / "tvm"
    inner = tree / path
    other = git("commit-tree", "HEAD^{tree}", "-m", "x", cwd=inner)
    git("checkout", "-q", other, cwd=inner)
    # Staged as well, so that `git submodule status` finds nothing: the parent's commit counts.
    git("add", "3rdparty/dlpack", cwd=tree / "3rdparty/ffi")
    done = run("--verify-only", str(tree), "--by-parent", path, **{path: ""})
    assert done.returncode == 1
    assert f"{path}: different: checked out {other}" in done.stderr
    assert origin.commits["dlpack"] in done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--commit", "v0.23.0"], "not a commit: v0.23.0"),
        (["--gitlink", "3rdparty/x"], "not a path and a commit"),
        (["--verify-only", "{tmp}"], "is not a git checkout"),
    ],
)
def test_requests_that_cannot_be_met(
    run: Run, tmp_path: Path, argv: list[str], message: str
) -> None:
    done = run(*(word.replace("{tmp}", str(tmp_path)) for word in argv))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr


def test_a_gitlink_that_no_gitmodules_explains(
    run: Run, origin: Origin, server: Server, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    git("clone", "-q", str(origin.root / "lib" / "tvm.git"), str(work), cwd=tmp_path)
    git("update-index", "--add", "--cacheinfo", f"160000,{'4' * 40},stray", cwd=work)
    git("commit", "-q", "-m", "stray", cwd=work)
    commit = git("rev-parse", "HEAD", cwd=work)
    git("push", "-q", str(origin.root / "lib" / "tvm.git"), "HEAD:stray", cwd=work)
    done = run("--commit", commit)
    assert done.returncode == 1
    assert f"stray: the tree of {URL} records the commit {'4' * 40}" in done.stderr


@pytest.mark.parametrize(
    "base",
    ["https://h.example/a/b.git", "git@h.example:a/b.git", "ssh://git@h.example:22/a/b/", "/srv/a"],
)
@pytest.mark.parametrize("url", ["../c.git", "./c", "../../x/c.git"])
def test_relative_urls_are_resolved_as_git_does(base: str, url: str, tmp_path: Path) -> None:
    git("init", "-q", ".", cwd=tmp_path)
    git("config", "remote.origin.url", base, cwd=tmp_path)
    (tmp_path / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = {url}\n')
    git("add", ".gitmodules", cwd=tmp_path)
    git("update-index", "--add", "--cacheinfo", f"160000,{'5' * 40},s", cwd=tmp_path)
    git("submodule", "init", cwd=tmp_path)
    assert absolute_url(base, url) == git("config", "submodule.s.url", cwd=tmp_path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com/apache/tvm", "github.com/apache/tvm.git"),
        ("https://me:x@github.com:443/apache/tvm.git/", "github.com/apache/tvm.git"),
        ("git@github.com:me/x.git", "github.com/me/x.git"),
        ("ssh://git@github.com/me/x", "github.com/me/x.git"),
    ],
)
def test_where_a_mirror_of_an_address_lies(url: str, expected: str) -> None:
    assert layout(url) == expected


def test_no_address_leads_out_of_the_folder_of_mirrors() -> None:
    for url in ("https://h.example/../../etc", "git@h.example:../x", "https://h.example//x/../y"):
        with pytest.raises(Fault):
            layout(url)
