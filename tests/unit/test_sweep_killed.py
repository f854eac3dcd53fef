"""A real `invoke sweep`, killed with SIGKILL and resumed: nothing lost, nothing measured twice.

The host, the local engine and the job are the real ones, in a copy of the project, so that nobody
edits the code under a sweep. All tests but one replace what takes seconds: the worker, before it
imports torch.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.host import owner, runs
from bench.host.engine import local
from bench.record import RunRecord
from tests.conftest import ROOT

KILLS = 10
LENGTHS = list(range(8, 8 + 14))
BACKENDS = ("torch-eager", "tvm-optimized")
STEP_S = 0.2

# Python imports a module of this name at its start; see the site module.
WORKER = f"""
import json, os, sys, time
argv = sys.orig_argv
if "bench.job.worker" in argv:
    name, spec, scratch, number = argv[argv.index("bench.job.worker") + 1:]
    time.sleep({STEP_S})
    report = {{}}
    if name != "reference":
        keys = ("model", "mode", "device", "batch_size", "seq_len", "dtype")
        asked = json.load(open(spec))
        times = [5.0] * 10
        parity = dict(reference="none", max_abs_err=0.0, max_rel_err=0.0, top1_agreement=1.0)
        report["result"] = dict(
            {{key: asked[key] for key in keys}}, backend=name, status="ok",
            latency_ms=dict(samples=times, median=5.0, p10=5.0, p90=5.0, min=5.0),
            parity=dict(parity, passed=True),
        )
    path = os.path.join(scratch, name + ".json")
    with open(path + ".partial", "w") as file:
        json.dump(report, file)
    os.replace(path + ".partial", path)
    os._exit(0)
"""


class Sweep:
    """A sweep in a copy of the project."""

    def __init__(self, tmp_path: Path) -> None:
        self.root, self.out, self.file = tmp_path / "p", tmp_path / "out", tmp_path / "a.toml"
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("bench", "docker"):
            shutil.copytree(ROOT / name, self.root / name, ignore=ignored)
        shutil.copy(ROOT / "tasks.py", self.root)
        self.stand_in = tmp_path / "site"
        self.stand_in.mkdir()

    def write(self, lengths: list[int], backends: tuple[str, ...] = BACKENDS) -> None:
        asked = {"model": "gpt-nano", "engine": "local", "repeats": 10, "seq_len": lengths}
        asked["backends"] = list(backends)
        self.file.write_text("".join(f"{key} = {json.dumps(asked[key])}\n" for key in asked))

    @contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "invoke", "sweep", str(self.file)]
        child = subprocess.Popen(
            [*command, "--out", str(self.out), *options],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.stand_in)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()

    def run(self, *options: str) -> str:
        """To its end; what it said."""
        with self.started(*options) as child:
            said, _ = child.communicate(timeout=300)
        assert child.returncode == 0, said
        return said

    def records(self) -> list[RunRecord]:
        return [runs.read_record(path / "record.json") for path in runs.listed(self.out)]

    def jobs(self) -> list[int]:
        """The pids of the runs' own processes, the workers left aside."""
        found = []
        for path in Path("/proc").iterdir():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError):
                continue
            if b"bench.job" in words and any(os.fsencode(self.out) in word for word in words):
                found.append(int(path.name))
        return found


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    made = Sweep(tmp_path)
    made.write(LENGTHS)
    return made


# Random moments from the start alone may never meet a cell, or the end of one, on a slow machine.
WAITS = ("start", "begun", "done", "begun", "done")


def wait(child: subprocess.Popen[str], until: str, sweep: Sweep) -> None:
    def seen() -> set[Path]:
        return set(sweep.out.glob("*.partial") if until == "begun" else runs.listed(sweep.out))

    before = seen()
    while until != "start" and child.poll() is None and not seen() - before:
        time.sleep(0.01)


def kill(child: subprocess.Popen[str], how: str, sweep: Sweep) -> None:
    """End the host, its process group, or the host and its job: then the worker goes on alone."""
    if how == "group":
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    if how == "host and job":
        for pid in sweep.jobs():
            os.kill(pid, signal.SIGKILL)
    child.wait()


def test_killed_at_ten_random_moments_every_cell_is_measured_exactly_once(sweep: Sweep) -> None:
    (sweep.stand_in / "sitecustomize.py").write_text(WORKER)
    moments = random.Random(1623)
    partial = 0
    for number in range(KILLS):
        with sweep.started() as child:
            wait(child, WAITS[number % len(WAITS)], sweep)
            # In all too little for every cell, however fast the machine: a cell takes three steps.
            time.sleep(moments.uniform(0.05, 0.9))
            assert child.poll() is None, child.communicate()[0]
            kill(child, ("host", "group", "host and job")[number % 3], sweep)
        partial += len(list(sweep.out.glob("*.partial")))
    assert partial, "no kill met a cell at work"
    before = len(sweep.records())
    assert 4 <= before < len(LENGTHS)  # four waited for one more
    said = sweep.run()
    assert f"{len(LENGTHS)} cells: " in said and f"{len(LENGTHS) - before} measured" in said
    records = sweep.records()
    assert {record.status for record in records} == {"ok"}
    assert Counter(record.spec.seq_len for record in records) == Counter(LENGTHS)
    assert all(len(record.results) == len(BACKENDS) for record in records)
    assert not list(sweep.out.glob("*.partial"))
    assert not sweep.jobs()


def test_one_cell_for_real_is_measured_once(sweep: Sweep) -> None:
    sweep.write([8], ("torch-eager",))
    assert "1 cells: 1 measured" in sweep.run()
    assert "1 cells: 1 found" in sweep.run()
    (record,) = sweep.records()
    assert record.results[0].latency_ms is not None and record.content


def test_ctrl_c_keeps_what_is_done_and_names_the_way_on(sweep: Sweep) -> None:
    (sweep.stand_in / "sitecustomize.py").write_text(WORKER)
    with sweep.started() as child:
        while not any(runs.listed(sweep.out)):
            assert child.poll() is None
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGINT)
        said, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "error: the sweep was interrupted" in said and "invoke sweep" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(sweep.out.glob("*.partial")) and not sweep.jobs()


HOST = """
import subprocess, sys
from pathlib import Path
from bench.host.engine.base import Launch
from bench.host.engine.local import LocalEngine

real = subprocess.Popen
code = '''
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print("pid", child.pid, flush=True)
time.sleep(600)
'''
subprocess.Popen = lambda command, **options: real([sys.executable, "-c", code], **options)
out = Path(sys.argv[1])
LocalEngine().run(Launch("id", out, out, 600.0), lambda line: print(line, flush=True))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_a_killed_host_leaves_running_is_ended_and_nothing_else(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours = {**os.environ, local.OWNER_VARIABLE: owner.mine()}
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    living = subprocess.Popen(sleep, env=ours)
    try:
        assert host.stdout is not None
        worker = int(host.stdout.readline().split()[1])
        assert worker not in local.end_abandoned() and alive(worker)  # its host lives
        host.kill()
        os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        ended = local.end_abandoned()
        assert worker in ended and len(ended) >= 2  # the job and its child, in other sessions
        assert not alive(worker) and living.poll() is None
    finally:
        for child in (host, living):
            child.kill()
            child.wait()


def test_a_training_that_was_cut_short_is_left_with_its_checkpoint(sweep: Sweep) -> None:
    (sweep.stand_in / "sitecustomize.py").write_text(WORKER)
    sweep.write([8])
    kinds: dict[str, Any] = {"bench": {"kind": "bench"}, "train": {"kind": "train"}}
    for name, spec in kinds.items():
        directory = sweep.out / f"{name}{runs.PARTIAL}"
        directory.mkdir(parents=True)
        (directory / "owner").write_text("1:1")
        (directory / "spec.json").write_text(json.dumps(spec))
    (sweep.out / "living.partial").mkdir()
    (sweep.out / "living.partial" / "owner").write_text(owner.mine())
    (sweep.out / "living.partial" / "spec.json").write_text(json.dumps(kinds["bench"]))
    assert "removed: bench.partial" in sweep.run()
    assert {p.name for p in sweep.out.glob("*.partial")} == {"train.partial", "living.partial"}
