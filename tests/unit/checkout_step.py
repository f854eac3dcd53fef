"""The checkout step as a build runs it: a program, an environment, a mirror on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.unit.git_server import CODE, Origin, Server, git

URL = f"{CODE}/lib/tvm.git"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(tmp_path: Path, server: Server) -> dict[str, str]:
    """What the step has in a build: the mirror comes by git's configuration alone."""
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "{server.url}/"]\n\tinsteadOf = {CODE}/\n')
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT),
    }


def arguments(origin: Origin, tmp_path: Path, **changed: str) -> list[str]:
    """The whole command; ``changed`` gitlinks replace the origin's, an empty one leaves it out."""
    argv = [sys.executable, "-m", "bench.build.fetch.checkout", "--url", URL]
    argv += ["--commit", origin.commits["tvm"], "--pause", "0.01"]
    for path, commit in {**origin.gitlinks, **changed}.items():
        argv += ["--gitlink", f"{path}={commit}"] if commit else []
    return [*argv, "--into", str(tmp_path / "tvm"), "--cache", str(tmp_path / "cache")]


def runner(origin: Origin, tmp_path: Path, environ: dict[str, str]) -> Run:
    """What runs the step to its end, with further options and changed gitlinks."""

    def call(*more: str, **changed: str) -> subprocess.CompletedProcess[str]:
        argv = [*arguments(origin, tmp_path, **changed), *more]
        done = subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def assert_whole(tree: Path, origin: Origin) -> None:
    """Every file and every repository is there, as git itself sees it."""
    for path, name in (
        ("", "tvm"),
        ("3rdparty/ffi", "ffi"),
        ("3rdparty/ffi/3rdparty/dlpack", "dlpack"),
        ("3rdparty/rang", "rang"),
    ):
        assert (tree / path / f"{name}.txt").read_text() == f"{name}\n" * 100
        assert git("rev-parse", "HEAD", cwd=tree / path) == origin.commits[name]
        assert git("status", "--porcelain", cwd=tree / path) == ""
    status = git("submodule", "status", "--recursive", cwd=tree)
    found = {line.split()[1]: line.split()[0] for line in status.splitlines()}
    assert found == origin.gitlinks
