"""A training from the command line to its end: interrupted, published, gone on with, finished."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.host import runs
from bench.record import RunRecord
from bench.training import CHECKPOINT_DIR, LOSS_CURVE, LOSS_TABLE, Training, read_state
from tests.conftest import ROOT
from tests.unit.training_runs import TEXT

# Far more steps than any machine makes until it is told to stop.
NEVER = ("--preset", "char-tiny", "--steps", "100000", "--eval-every", "5", "--threads", "1")
WAIT_S = 300


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "novel.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def training(tmp_path: Path, text: Path) -> Iterator[subprocess.Popen[str]]:
    """`invoke train`, which would go on for long; ended after the test in any case."""
    process = subprocess.Popen(
        command(tmp_path / "out", text, *NEVER),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "400"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)  # its job is another process, which it ends
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def command(out: Path, text: Path, *arguments: str, engine: str = "local") -> list[str]:
    verb = [sys.executable, "-m", "invoke", "train", "--engine", engine, "--out", str(out)]
    return [*verb, "--text", str(text), *arguments]


def saved_twice(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run's first checkpoint was replaced by a later one."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for table in out.glob(f"*{runs.PARTIAL}/{LOSS_TABLE}"):
            # A header and two points; each is written after the checkpoint that it belongs to.
            if len(table.read_text().splitlines()) >= 3:
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it never saved a checkpoint")


def the_training(record: RunRecord) -> Training:
    assert record.training is not None
    return record.training


def test_ctrl_c_publishes_what_is_done_and_resume_goes_on_from_there(
    training: subprocess.Popen[str], tmp_path: Path, text: Path
) -> None:
    out = tmp_path / "out"
    saved_twice(out, training)
    training.send_signal(signal.SIGINT)
    _, stderr = training.communicate(timeout=WAIT_S)
    assert training.returncode == 1, stderr
    assert "error: interrupted" in stderr and "Traceback" not in stderr

    (path,) = out.iterdir()  # published, with nothing partial beside it
    hint = re.search(r"^hint: .*invoke train --resume (\S+)$", stderr, re.MULTILINE)
    assert hint is not None and hint[1].endswith(path.name), stderr
    record = runs.read_record(path / runs.RECORD)
    assert (record.status, record.reason) == ("failed", "interrupted by the user")
    part = the_training(record)
    state = read_state(path / CHECKPOINT_DIR)
    assert part.stopped == "interrupted"
    assert str(part.reason).startswith(f"stopped by SIGTERM at step {state.step} of 100000")
    assert part.steps_done == part.checkpoint_step == state.step >= 5
    # Read by whoever the container is that goes on with it.
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in (path / "checkpoint").iterdir())
    assert [point.step for point in part.curve][:2] == [0, 5]
    assert part.curve == state.curve
    table = (path / LOSS_TABLE).read_text().splitlines()
    assert len(table) == 1 + len(part.curve)
    assert (path / LOSS_CURVE).read_text().rstrip().endswith("</svg>")
    assert {one.name for one in path.iterdir()} == {
        CHECKPOINT_DIR,
        LOSS_CURVE,
        LOSS_TABLE,
        runs.LOG,
        runs.RECORD,
        runs.REPORT,
        "spec.json",
    }

    wanted = state.step + 20
    done = subprocess.run(
        command(out, text, "--resume", "last", "--steps", str(wanted)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (later,) = (one for one in out.iterdir() if one != path)
    record = runs.read_record(later / runs.RECORD)
    rest = the_training(record)
    assert (record.status, rest.stopped, rest.reason) == ("ok", "finished", None)
    assert rest.resumed_from_step == state.step
    assert rest.steps_done == rest.checkpoint_step == wanted
    assert read_state(later / CHECKPOINT_DIR).step == wanted
    assert rest.curve[: len(part.curve)] == part.curve
    assert rest.curve[-1].step == wanted
    assert rest.hyperparameters.decay_steps == part.hyperparameters.decay_steps
    assert not list(out.glob(f"*{runs.PARTIAL}"))
    assert read_state(path / CHECKPOINT_DIR) == state  # what it went on from is as it was
