"""The embedded engine: the very same job in a child process of the host's own environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.catalog import SPEC_FILE, STORE_VARIABLE, input_variable
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.stream import follow
from bench.host.interrupts import held

ROOT = Path(__file__).resolve().parents[3]
_STOP_S = 10.0


class LocalEngine:
    """Runs jobs with the Python that runs this."""

    name = "local"

    def run(self, launch: Launch, on_line: OnLine) -> Ending:
        command = [sys.executable, "-m", "bench.job", str(launch.run_dir / SPEC_FILE)]
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(launch),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Its own group: a Ctrl-C at the terminal reaches the host alone, which then ends
            # the whole group, the job's children included.
            start_new_session=True,
        )
        try:
            assert child.stdout is not None
            timed_out = follow(
                _lines(child.stdout),
                launch.timeout_s,
                on_line,
                gone=lambda: child.poll() is not None,
            )
        finally:
            with held():
                _end_group(child)
        if timed_out:
            return Ending("timeout", detail=f"over {launch.timeout_s:g} s")
        code = child.returncode
        if code < 0:
            return Ending("signal", detail=signal.Signals(-code).name)
        return Ending("exited", exit_code=code)


def _environment(launch: Launch) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        STORE_VARIABLE: str(launch.store),
        **{input_variable(name): str(path) for name, path in launch.inputs.items()},
    }


def _lines(stream: IO[str]) -> Iterator[str]:
    for line in stream:
        yield line.rstrip("\n")


def _end_group(child: subprocess.Popen[str]) -> None:
    """Stop whatever of the child's process group is still there: first asked, then killed."""
    for number, patience_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            child.poll()
            try:
                os.killpg(child.pid, 0)
            except (ProcessLookupError, PermissionError):
                child.wait()
                return
            time.sleep(0.02)
