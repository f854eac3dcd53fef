"""Training and generating for real: `invoke train` and `invoke generate` in the project's image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import runs
from bench.host.engine.base import Ending, Launch
from bench.host.engine.docker import RUN_LABEL, DockerEngine
from bench.host.image import Image
from bench.record import RunRecord
from bench.training import CHECKPOINT_DIR, LOSS_CURVE, LOSS_TABLE, read_state
from tests.conftest import ROOT
from tests.unit.test_train_whole import NEVER, WAIT_S, command, saved_twice, the_training
from tests.unit.training_runs import TEXT, sum_of

if TYPE_CHECKING:
    from docker import DockerClient

PROMPT = "7 sheep leap"
STEPS = 200


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def ownership(directory: Path) -> dict[str, tuple[int, int, int, str]]:
    """Owner, group, mode and contents of a directory and all that is in it, by path."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_uid,
            path.stat().st_gid,
            path.stat().st_mode,
            sum_of(path.read_bytes()) if path.is_file() else "",
        )
        for path in (directory, *directory.rglob("*"))
    }


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "novel.txt"
    file.write_text(TEXT)
    file.chmod(0o644)
    return file


@pytest.fixture(scope="module")
def trained(
    built_image: Image, tmp_path_factory: pytest.TempPathFactory, text: Path
) -> tuple[Path, RunRecord]:
    """The directory of a run that was trained in a container, and its record."""
    out = tmp_path_factory.mktemp("trained") / "out"
    steps = ("--preset", "char-tiny", "--steps", str(STEPS), "--learning-rate", "1e-2")
    done = subprocess.run(
        command(out, text, *steps, engine="docker"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    return path, runs.read_record(path / runs.RECORD)


def test_a_container_trains_and_its_record_says_in_which_image(
    trained: tuple[Path, RunRecord], built_image: Image
) -> None:
    path, record = trained
    assert (record.status, record.engine, record.spec.kind) == ("ok", "docker", "train")
    assert record.image is not None and record.image.id == built_image.id
    training = the_training(record)
    assert (training.stopped, training.steps_done) == ("finished", STEPS)
    assert training.text_sha256 == sum_of(TEXT)
    assert training.curve[-1].val_loss < training.curve[0].val_loss - 0.5
    assert read_state(path / CHECKPOINT_DIR).step == training.checkpoint_step == STEPS
    for name in (LOSS_TABLE, LOSS_CURVE, runs.LOG, runs.REPORT):
        assert (path / name).stat().st_size > 0


def test_all_that_a_container_leaves_belongs_to_the_caller(
    trained: tuple[Path, RunRecord], text: Path
) -> None:
    path, _ = trained
    for file in (path, *path.rglob("*"), text):
        assert (file.stat().st_uid, file.stat().st_gid) == (os.getuid(), os.getgid()), file


def test_both_engines_continue_a_prompt_with_the_same_text(
    trained: tuple[Path, RunRecord],
) -> None:
    """A container and this machine, through TVM, and without it: the likeliest is the likeliest."""
    path, _ = trained
    out = path.parent
    before = ownership(path)
    wanted = ("--prompt", PROMPT, "--tokens", "40", "--temperature", "0", "--out", str(out))
    said = {
        (engine, backend): invoke(
            "generate", "last", "--engine", engine, "--backend", backend, *wanted
        ).stdout
        for engine, backend in (
            ("docker", "tvm-optimized"),
            ("local", "tvm-optimized"),
            ("docker", "torch-eager"),
        )
    }
    assert len(set(said.values())) == 1, said
    whole = said["docker", "tvm-optimized"].removesuffix("\n")
    assert whole.startswith(PROMPT) and len(whole) == len(PROMPT) + 40
    made = [runs.read_record(one / runs.RECORD) for one in runs.listed(out) if one != path]
    assert sorted(record.engine for record in made) == ["docker", "docker", "local"]
    for record in made:
        assert (record.status, record.spec.kind) == ("ok", "generate")
        assert record.spec.weights is not None
        assert record.spec.weights.sha256 == the_training(trained[1]).checkpoint_sha256
    # What they read is as it was, whoever the container ran as.
    assert ownership(path) == before


def test_a_run_is_gone_on_with_in_a_container(
    trained: tuple[Path, RunRecord], text: Path, tmp_path: Path
) -> None:
    path, _ = trained
    before = ownership(path)
    steps = ("--resume", str(path), "--steps", str(STEPS + 20))
    done = subprocess.run(
        command(tmp_path / "out", text, *steps, engine="docker"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (later,) = (tmp_path / "out").iterdir()
    training = the_training(runs.read_record(later / runs.RECORD))
    assert (training.resumed_from_step, training.steps_done) == (STEPS, STEPS + 20)
    assert ownership(path) == before


def test_a_job_can_read_its_inputs_and_not_write_them(
    client: DockerClient,
    built_image: Image,
    trained: tuple[Path, RunRecord],
    text: Path,
    tmp_path: Path,
) -> None:
    """The engine's own options, with another program in the job's place."""
    probe = """
import json, os, pathlib
weights = pathlib.Path(os.environ['GPT_FRONTEND_IN_WEIGHTS'])
text = pathlib.Path(os.environ['GPT_FRONTEND_IN_TEXT'])
def refused(action):
    try: action()
    except OSError as error: return error.strerror
    return None
options = {l.split()[4]: l.split()[5].split(',') for l in open('/proc/self/mountinfo')}
print(json.dumps({
    'read': [len((weights / 'model.safetensors').read_bytes()), len(text.read_text())],
    'mounted': ['ro' in options[str(path)] for path in (weights, text)],
    'refused': [
        refused(lambda: (weights / 'new').write_text('')),
        refused(lambda: (weights / 'model.safetensors').open('r+b')),
        refused(lambda: (weights / 'model.safetensors').unlink()),
        refused(lambda: weights.chmod(0o777)),
        refused(lambda: text.open('a')),
    ],
    'beside': sorted(path.name for path in weights.parent.iterdir()),
}))
"""
    path, _ = trained
    before, run_dir, store = ownership(path), tmp_path / "run", tmp_path / "store"
    run_dir.mkdir()
    store.mkdir()
    engine = DockerEngine(client, built_image.id)
    engine.command = ("python", "-c", probe)
    launch = Launch(
        run_id=f"test-{os.urandom(4).hex()}",
        run_dir=run_dir,
        store=store,
        timeout_s=120,
        inputs={"weights": path / CHECKPOINT_DIR, "text": text},
    )
    lines: list[str] = []
    assert engine.run(launch, lines.append) == Ending("exited", exit_code=0), lines
    seen = json.loads(lines[-1])
    weights = path / CHECKPOINT_DIR / "model.safetensors"
    assert seen["read"] == [weights.stat().st_size, len(TEXT)]
    assert seen["mounted"] == [True, True]
    # Who owns a file is asked before how it is mounted, so some are refused for both reasons.
    assert seen["refused"][0] == "Read-only file system"
    assert set(seen["refused"]) <= {"Read-only file system", "Permission denied"}
    assert seen["beside"] == ["text", "weights"]  # nothing else of this machine
    assert ownership(path) == before


def test_ctrl_c_keeps_the_checkpoint_of_a_container_too(
    client: DockerClient, built_image: Image, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(out, text, *NEVER, engine="docker"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        saved_twice(out, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=WAIT_S)
    finally:
        if process.poll() is None:
            process.terminate()  # it removes its container
            process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "error: interrupted" in stderr and "--resume" in stderr and "Traceback" not in stderr
    (path,) = out.iterdir()
    record = runs.read_record(path / runs.RECORD)
    training = the_training(record)
    assert (record.engine, training.stopped) == ("docker", "interrupted")
    assert read_state(path / CHECKPOINT_DIR).step == training.steps_done >= 5
    for file in (path, *path.rglob("*")):
        assert (file.stat().st_uid, file.stat().st_gid) == (os.getuid(), os.getgid()), file
    label = f"{RUN_LABEL}={record.run_id}"
    assert client.containers.list(all=True, filters={"label": label}) == []
