"""One commit measured by its own `invoke bench`, in this environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bench.errors import JobFailed, UsageFault
from bench.host import runs
from bench.host.history import identity
from bench.host.history.bisect import Measure
from bench.host.report import plain
from bench.record import RunRecord

_CTRL_C_S = 5.0  # in which a run that the terminal interrupted too comes to its end
_GRACE_S = 60.0  # and one that has to be told


def by_bench(arguments: Sequence[str], out: Path, program: Sequence[str] | None = None) -> Measure:
    """Measure by ``invoke bench ARGUMENTS``; what it publishes is kept under ``out``.

    ``program`` stands in for ``python -m invoke bench``.

    Raises, when called:
        JobFailed: it does not end well, or publishes nothing.
        UsageFault: ``out`` cannot be written.
    """
    command = [*(program or (sys.executable, "-m", "invoke", "bench")), *arguments]

    def measure(commit: str, tree: Path) -> RunRecord:
        folder = _folder(out)
        try:
            code, said, _ = in_tree([*command, "--out", str(folder)], tree)
            published = [path.rename(folder.parent / path.name) for path in runs.listed(folder)]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if code != 0 or not published:
            raise JobFailed(
                f"invoke bench ended with {code} at {commit[:12]}: {said or 'it said nothing'}",
                hint=f"git checkout {commit[:12]}, and run it by hand",
            )
        return identity.read(published[-1])

    return measure


def _folder(out: Path) -> Path:
    # Under out, so that a run is moved there by a rename.
    try:
        out.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".bisect-", dir=out.absolute()))
    except OSError as error:
        raise UsageFault(
            f"cannot write to {out}: {error.strerror}", hint="name another: --out DIR"
        ) from error


def in_tree(command: Sequence[str], tree: Path) -> tuple[int, str, str]:
    """Run a command of ours in another work tree: (exit status, its last words, its output).

    Raises:
        JobFailed: it cannot be started.
    """
    # The commit's own code, not this one's.
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(command, cwd=tree, env=environ, stdout=output, stderr=errors)
        except OSError as error:
            raise JobFailed(f"cannot run {command[0]}: {error.strerror}") from error
        try:
            code = child.wait()
        except BaseException:
            _end(child)
            raise
        lines, printed = (_text(stream).strip().splitlines() for stream in (errors, output))
    telling = [line for line in lines if line.startswith("error: ")] or lines
    said = plain(telling[-1][:300]) if telling else ""
    return code, said, "\n".join(printed)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let it clean up, as it does after Ctrl-C: it may hold a container."""
    for end, patience in ((None, _CTRL_C_S), (child.terminate, _GRACE_S), (child.kill, None)):
        if end is not None:
            end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            return
