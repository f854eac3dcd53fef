"""The local engine against real child processes: output, exit codes, signals, time-outs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.errors import UsageFault
from bench.host.engine.base import Ending, Launch
from bench.host.engine.limits import Limits
from bench.host.engine.local import LocalEngine


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    code: str,
    timeout_s: float = 60,
    limits: Limits | None = None,
) -> tuple[Ending, list[str]]:
    """Run ``code`` in place of ``python -m bench.job``, with the spec's path in argv[1]."""
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        assert command[:3] == [sys.executable, "-m", "bench.job"]
        # subprocess.run's options have overloads that a dictionary of them cannot choose among.
        return real([sys.executable, "-c", code, command[3]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    lines: list[str] = []
    launch = Launch("id", tmp_path, tmp_path / "store", timeout_s, limits=limits or Limits())
    return LocalEngine().run(launch, lines.append), lines


def test_output_comes_line_by_line_with_stderr(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import os, sys; print('one', flush=True); print('two', file=sys.stderr, flush=True);"
        "print(os.environ['GPT_FRONTEND_STORE'], sys.argv[1], flush=True);"
        "sys.stdout.buffer.write(b'\\xff no newline')"
    )
    ending, lines = run(monkeypatch, tmp_path, code)
    assert ending == Ending("exited", exit_code=0)
    assert ending.clean
    paths = f"{tmp_path / 'store'} {tmp_path / 'spec.json'}"
    assert lines == ["one", "two", paths, "\N{REPLACEMENT CHARACTER} no newline"]


@pytest.mark.parametrize("named", [None, "/mine"])
def test_inductors_cache_is_the_runs_own_where_the_user_names_none(
    named: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or the start of torch.compile that a run measures is warm from the run before."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    if named is not None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", named)
    _, lines = run(monkeypatch, tmp_path, "import os; print(os.environ['TORCHINDUCTOR_CACHE_DIR'])")
    assert lines == [named or str(tmp_path / "scratch" / "torchinductor")]


def test_an_exit_code_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ending, _ = run(monkeypatch, tmp_path, "raise SystemExit(7)")
    assert ending.reason() == "exit code 7"
    assert not ending.clean


def test_a_signal_from_outside_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ending, _ = run(monkeypatch, tmp_path, code)
    assert ending.reason() == "signal: SIGKILL"


FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(child.pid, flush=True)
{then}
"""


def test_over_time_the_whole_family_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = FAMILY.format(then="time.sleep(600)")
    ending, lines = run(monkeypatch, tmp_path, code, timeout_s=2.0)
    assert ending.reason() == "timeout: over 2 s"
    assert not alive(int(lines[0]))


def test_a_killed_job_leaves_no_child_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The child holds the output open; its parent's death must be seen all the same."""
    then = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ending, lines = run(monkeypatch, tmp_path, FAMILY.format(then=then))
    assert ending.reason() == "signal: SIGKILL"
    assert not alive(int(lines[0]))


def test_ctrl_c_ends_the_family_and_is_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    code = FAMILY.format(then=f"open({str(pids)!r}, 'w').write(str(child.pid)); time.sleep(600)")

    def interrupt() -> None:
        while not (pids.exists() and pids.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path, code)
    assert not alive(int(pids.read_text()))


def test_a_local_job_too_is_stopped_at_its_disk_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); number = 0\n"
        "while True:\n"
        f"    open({str(tmp_path)!r} + f'/{{number % 200}}', 'wb').write(bytes(2**20)); number += 1"
    )
    ending, _ = run(monkeypatch, tmp_path, code, limits=Limits(disk=16 * 2**20))
    want = "disk budget: over 16 MiB, most of it in the run directory (--limits disk=)"
    assert ending.reason() == want


def test_a_local_jobs_file_is_bounded_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # On a busy machine so short a program may be over before it is bounded; a job imports first.
    code = (
        "import resource, time\n"
        "while resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2**20: time.sleep(0.01)\n"
        f"open({str(tmp_path / 'big')!r}, 'wb').write(bytes(2**21))"
    )
    ending, lines = run(monkeypatch, tmp_path, code, limits=Limits(file=2**20))
    assert ending.reason() == "exit code 1: 'big' met the limit of 1 MiB (--limits file=)"
    assert "File too large" in lines[-1]
    assert (tmp_path / "big").stat().st_size == 2**20


@pytest.mark.parametrize(
    ("limits", "named"),
    [(Limits(memory=2**30), "memory"), (Limits(pids=64, cpus=1.0), "pids, cpus")],
)
def test_what_only_a_container_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limits: Limits, named: str
) -> None:
    with pytest.raises(UsageFault, match=f"the local engine cannot limit {named}$"):
        run(monkeypatch, tmp_path, "pass", limits=limits)
