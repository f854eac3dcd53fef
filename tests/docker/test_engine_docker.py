"""Every way a container can end, on a real engine: the run is published, the container gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.errors import UsageFault
from bench.host import runs
from bench.host.engine.base import Ending, Launch
from bench.host.engine.docker import RUN_LABEL, DockerEngine, gpu_refusal
from bench.host.image import Image
from bench.record import JobSpec
from tests.conftest import ROOT, cannot_run

if TYPE_CHECKING:
    from docker import DockerClient

# Long enough to be caught at work on any machine, and never waited for.
LONG = ("--engine", "docker", "--model", "gpt2", "--backends", "tvm-none,tvm-default")


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    for _ in range(3000):
        found = what()
        if found:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("it never came")


def ours(client: DockerClient, out: Path) -> list[Any]:
    """The containers of the runs under ``out``, in any state."""
    ids = {path.name.removesuffix(".partial") for path in out.glob("*")} if out.exists() else set()
    found = client.containers.list(all=True, filters={"label": RUN_LABEL})
    return [container for container in found if container.labels[RUN_LABEL] in ids]


def at_work(client: DockerClient, out: Path) -> Any:
    """The container of the run, once its job has told that it is at work."""
    logs = list(out.glob("*.partial/job.log"))
    if not logs or "progress 1 " not in logs[0].read_text():
        return None
    return next(iter(ours(client, out)), None)


@pytest.fixture
def job(built_image: Image, tmp_path: Path) -> Any:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "invoke", "bench", "--out", str(tmp_path / "out"), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def ended(process: subprocess.Popen[str], out: Path) -> tuple[dict[str, Any], str]:
    """The record of the one run, which exited 1 with a word and a hint and no traceback."""
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert "error: " in stderr and "hint: " in stderr and "Traceback" not in stderr
    (path,) = out.iterdir()
    assert (path / "job.log").read_text()
    record = runs.read_record(path / "record.json")
    assert record.status == "failed" and record.environment is not None
    assert not (path / "scratch").exists()
    return json.loads((path / "record.json").read_text()), stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_job_is_published_and_its_container_gone(
    job: Any, client: DockerClient, tmp_path: Path, number: signal.Signals
) -> None:
    process = job(*LONG)
    wait_for(lambda: at_work(client, tmp_path / "out"), process)
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)  # an impatient second one must not cut the clean-up short
    record, stderr = ended(process, tmp_path / "out")
    assert record["reason"] == "interrupted by the user"
    assert "error: interrupted" in stderr
    assert {row["status"] for row in record["results"]} == {"skipped"}
    assert ours(client, tmp_path / "out") == []


@pytest.mark.parametrize("how", ["kill", "remove"])
def test_a_container_killed_from_outside_is_a_failed_run(
    job: Any, client: DockerClient, tmp_path: Path, how: str
) -> None:
    process = job(*LONG)
    container = wait_for(lambda: at_work(client, tmp_path / "out"), process)
    if how == "kill":
        container.kill()
    else:
        container.remove(force=True)
    record, _ = ended(process, tmp_path / "out")
    assert record["reason"].startswith("signal: ")
    assert ours(client, tmp_path / "out") == []


def test_a_job_over_its_time_is_stopped(job: Any, client: DockerClient, tmp_path: Path) -> None:
    record, _ = ended(job(*LONG, "--timeout", "15"), tmp_path / "out")
    assert record["reason"] == "timeout: over 15 s"
    assert ours(client, tmp_path / "out") == []


def test_two_runs_at_once_do_not_meet(job: Any, tmp_path: Path) -> None:
    nano = ("--engine", "docker", "--model", "gpt-nano", "--backends", "tvm-none")
    both = [job(*nano), job(*nano)]
    for process in both:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    published = list(runs.listed(tmp_path / "out"))
    assert len(published) == 2
    for path in published:
        assert runs.read_record(path / runs.RECORD).status == "ok"


def test_what_a_killed_host_left_is_found_and_removed(
    job: Any, client: DockerClient, tmp_path: Path
) -> None:
    """SIGKILL gives the host no time: its container goes on until `invoke clean`."""
    process = job(*LONG)
    container = wait_for(lambda: at_work(client, tmp_path / "out"), process)
    other = job(*LONG)  # a run that is under way must survive the clean-up

    def two_at_work() -> bool:
        return len(list((tmp_path / "out").glob("*.partial/job.log"))) == 2

    wait_for(two_at_work, other)
    process.kill()
    process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "clean", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"container removed: {container.name}" in done.stdout
    (left,) = (tmp_path / "out").glob("*.partial")
    assert f"{left.name.removesuffix('.partial')}" not in done.stdout
    other.send_signal(signal.SIGINT)
    other.communicate(timeout=120)


@pytest.mark.parametrize("mib", [1, 70])
def test_a_full_out_exits_2_and_leaves_nothing(
    built_image: Image, tmp_path: Path, mib: int
) -> None:
    """Too little for any run, and too little for this one's float64 reference."""
    if os.getuid() != 0:
        cannot_run("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", small], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "bench", "--out", str(small / "out"), *LONG],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "error: cannot write to" in done.stderr and "hint: " in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_gpu_is_refused_at_once_with_the_engines_reason(
    client: DockerClient, tmp_path: Path
) -> None:
    refusal = gpu_refusal(client)
    if refusal is None:
        pytest.skip("this engine has a GPU to give, so there is no refusal to see")
    assert "could not select device driver" in refusal
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "bench", "--gpu", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: the engine has no GPU to give: could not select device driver" in done.stderr
    assert "NVIDIA Container Toolkit" in done.stderr
    assert not (tmp_path / "out").exists()
    left = client.containers.list(all=True, filters={"label": f"{RUN_LABEL}=gpu-probe"})
    assert left == []


def launch(tmp_path: Path, timeout_s: float = 120) -> Launch:
    run_dir, store = tmp_path / "run", tmp_path / "store"
    run_dir.mkdir()
    store.mkdir()
    (run_dir / "spec.json").write_text(JobSpec(model="gpt-nano").model_dump_json())
    return Launch(f"test-{os.urandom(4).hex()}", run_dir, store, timeout_s)


def test_an_image_that_is_not_there_cannot_start(client: DockerClient, tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="cannot start the container"):
        DockerEngine(client, "gpt-frontend:absent").run(launch(tmp_path), lambda _: None)


def test_the_container_is_shut_in(client: DockerClient, built_image: Image, tmp_path: Path) -> None:
    """No network, no root, no capability, nothing writable but its places; /tmp can execute."""
    probe = """
import json, os, socket, subprocess, sys
def tries(action):
    try: action(); return True
    except OSError: return False
def executes():
    with open('/tmp/program', 'w') as f: f.write('#!/bin/sh\\nexit 0\\n')
    os.chmod('/tmp/program', 0o755)
    subprocess.run(['/tmp/program'], check=True)
status = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines() if ':' in l)
print(json.dumps({
    'uid': os.getuid(), 'home': os.environ['HOME'], 'capabilities': status['CapEff'].strip(),
    'no_new_privileges': status['NoNewPrivs'].strip(),
    'interfaces': sorted(n for _, n in socket.if_nameindex()),
    'root': tries(lambda: open('/written', 'w')), 'code': tries(lambda: open('written', 'w')),
    'run': tries(lambda: open('/run/gpt-frontend/run/written', 'w')),
    'store': tries(lambda: open('/run/gpt-frontend/store/written', 'w')),
    'executes': tries(executes),
}))
"""
    engine = DockerEngine(client, built_image.id)
    engine.command = ("python", "-c", probe)
    lines: list[str] = []
    at = launch(tmp_path)
    assert engine.run(at, lines.append) == Ending("exited", exit_code=0)
    seen = json.loads(lines[-1])
    assert seen["uid"] != 0 and seen["capabilities"] == "0" * 16
    assert seen["no_new_privileges"] == "1" and seen["interfaces"] == ["lo"]
    assert (seen["root"], seen["code"]) == (False, False)
    assert (seen["run"], seen["store"], seen["executes"]) == (True, True, True)
    assert (at.run_dir / "written").stat().st_uid == os.getuid()
