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

from bench.host.engine.base import Ending, Launch
from bench.host.engine.local import LocalEngine


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, timeout_s: float = 60
) -> tuple[Ending, list[str]]:
    """Run ``code`` in place of ``python -m bench.job``, with the spec's path in argv[1]."""
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        assert command[:3] == [sys.executable, "-m", "bench.job"]
        # subprocess.run's options have overloads that a dictionary of them cannot choose among.
        return real([sys.executable, "-c", code, command[3]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    lines: list[str] = []
    launch = Launch("id", tmp_path, tmp_path / "store", timeout_s)
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
