"""The embedded engine: the very same job in a child process of the host's own environment."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.catalog import SCRATCH_DIR, SPEC_FILE, STORE_VARIABLE, input_variable
from bench.errors import JobFailed, UsageFault
from bench.host import owner
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.limits import Limits, size
from bench.host.engine.stream import LONGEST_LINE, follow
from bench.host.engine.watch import DiskWatch
from bench.host.interrupts import held

ROOT = Path(__file__).resolve().parents[3]
_STOP_S = 10.0
# The host process that a job's processes belong to (bench/host/owner.py), in their environment:
# it outlives whatever they do with groups and sessions, and children inherit it.
OWNER_VARIABLE = "GPT_FRONTEND_OWNER"


class LocalEngine:
    """Runs jobs with the Python that runs this."""

    name = "local"

    def run(self, launch: Launch, on_line: OnLine) -> Ending:
        _require_no_container(launch.limits)
        command = [sys.executable, "-m", "bench.job", str(launch.run_dir / SPEC_FILE)]
        watch = DiskWatch(launch)
        child: subprocess.Popen[str] | None = None
        over: Ending | None = None
        try:
            with held(then_raise=True):  # or a Ctrl-C leaves a child that nobody knows of
                child = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=_environment(launch),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    # Its own group: a Ctrl-C at the terminal reaches the host alone, which then
                    # ends the whole group, the job's children included.
                    start_new_session=True,
                )
            _bound(child.pid, launch.limits)
            assert child.stdout is not None
            over = follow(
                _lines(child.stdout),
                launch.timeout_s,
                on_line,
                watch,
                gone=lambda: child.poll() is not None,
            )
        finally:
            if child is not None:
                with held():
                    _end_group(child, at_once=over is not None and over.cause == "disk budget")
        over = over or watch.look()
        if over is not None:
            return over
        code = child.returncode
        if code < 0:
            name = signal.Signals(-code).name
            if name == "SIGXFSZ":
                bound = size(launch.limits.file or launch.limits.budget)
                name += f": a file over {bound} (--limits file=)"
            return Ending("signal", detail=name)
        return watch.told(Ending("exited", exit_code=code))


def _require_no_container(limits: Limits) -> None:
    """Refuse bounds that only a container keeps, where the user named them."""
    named = {
        "memory": limits.memory is not None,
        "pids": limits.pids != Limits.pids,
        "cpus": limits.cpus is not None,
        "tmp": limits.tmp is not None,
    }
    asked = [name for name, given in named.items() if given]
    if asked:
        raise UsageFault(
            f"the local engine cannot limit {', '.join(asked)}",
            hint="--engine docker can; or leave it out of --limits and the configuration file",
        )


def _bound(pid: int, limits: Limits) -> None:
    """Bound the job's files. Its memory is not: torch and CUDA map far more than they use.

    A moment after it began: it imports for longer than that before it writes anything, and
    subprocess's own way (``preexec_fn``) may hang where the host has threads.
    """
    for kind, wanted in (
        (resource.RLIMIT_FSIZE, limits.file or limits.budget),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, kind)
            bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.prlimit(pid, kind, (bound, bound))


def _environment(launch: Launch) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        # A run's own, as in a container: what torch.compile takes to start is no other run's.
        "TORCHINDUCTOR_CACHE_DIR": str(launch.run_dir / SCRATCH_DIR / "torchinductor"),
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        STORE_VARIABLE: str(launch.store),
        OWNER_VARIABLE: owner.mine(),
        **{input_variable(name): str(path) for name, path in launch.inputs.items()},
    }


def _lines(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        yield line.rstrip("\n")


def _end_group(child: subprocess.Popen[str], *, at_once: bool = False) -> None:
    """Stop whatever of the child's process group is still there: first asked, then killed."""
    for number, patience_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S))[at_once:]:
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


def end_abandoned() -> list[int]:
    """End the processes of jobs whose host process is gone; gives their pids.

    A host that is killed by SIGKILL cannot end its job, which goes on for a while.

    Raises:
        JobFailed: one is still there after SIGKILL.
    """
    ended: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _STOP_S
        asked: set[int] = set()
        while found := set(_abandoned()):  # a fork may have been missed: until there is none
            for pid in found - asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            asked |= found
            ended |= found
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return sorted(ended)
    left = ", ".join(map(str, sorted(_abandoned())))
    if left:
        raise JobFailed(
            f"a job of a killed run goes on and cannot be ended: process {left}",
            hint="wait for it to end, or restart the machine",
        )
    return sorted(ended)


def _abandoned() -> Iterator[int]:
    mark = f"{OWNER_VARIABLE}=".encode()
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            variables = (path / "environ").read_bytes().split(b"\0")
            marks = [one for one in variables if one.startswith(mark)]
        except OSError:  # somebody else's, or gone
            continue
        whose = [one.removeprefix(mark).decode(errors="replace") for one in marks]
        if whose and int(path.name) != os.getpid() and not any(map(owner.alive, whose)):
            yield int(path.name)
