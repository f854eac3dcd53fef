"""Pinning: what a user may ask for, what a job refuses, and where its threads then run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench import cores
from bench.catalog import OUTCOME_FILE
from bench.errors import UsageFault
from bench.host import request
from bench.host.engine import docker
from bench.host.engine.base import Launch
from bench.host.engine.limits import Limits
from bench.host.history import identity
from bench.job import runner
from bench.record import JobOutcome, JobSpec
from tests.conftest import ROOT
from tests.unit import histories

MINE = sorted(os.sched_getaffinity(0))
ABSENT = MINE[-1] + 1000


@pytest.mark.parametrize(
    ("text", "want"),
    [("0", (0,)), ("0-3,6", (0, 1, 2, 3, 6)), (" 2 , 0-1", (2, 0, 1)), ("7-7", (7,))],
)
def test_lists_as_the_kernel_writes_them(text: str, want: tuple[int, ...]) -> None:
    assert cores.parse(text) == want
    assert cores.parse(cores.listed(want)) == tuple(sorted(want))


@pytest.mark.parametrize(
    "text", ["", ",", "0,,1", "-1", "3-1", "a", "0-", "1.5", "0,0", "0-3,2", "0-99999", "²", "1 2"]
)
def test_what_is_no_list_of_cores_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageFault) as caught:
        request.spec_from(pin=text)
    assert "--pin" in caught.value.message and "--pin 0-3,6" in str(caught.value.hint)


def test_a_list_is_written_as_the_kernel_does() -> None:
    assert cores.listed((6, 3, 1, 0, 2, 9, 8)) == "0-3,6,8-9"


def test_a_spec_has_each_core_once_and_at_least_one() -> None:
    assert request.spec_from(pin="0-1").pin == (0, 1)
    for bad in ((), (0, 0), (-1,), (1 << 16,)):
        with pytest.raises(ValidationError):
            JobSpec(pin=bad)


def test_more_threads_than_pinned_cores_are_refused() -> None:
    assert request.spec_from(pin="0-1", threads="2").threads == 2
    with pytest.raises(UsageFault, match="more than the 2 cores"):
        request.spec_from(pin="0-1", threads="3")


def topology(root: Path, groups: dict[int, str]) -> Path:
    for core, text in groups.items():
        at = root / f"cpu{core}/topology"
        at.mkdir(parents=True)
        (at / "thread_siblings_list").write_text(f"{text}\n")
    return root


def test_hyper_threads_of_one_core_are_told_together(tmp_path: Path) -> None:
    machine = topology(tmp_path, {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2", 3: "odd"})
    assert cores.siblings(range(6), machine) == [(0, 4), (1, 5)]
    assert cores.siblings((0, 1, 2, 3), machine) == []
    assert cores.siblings((0, 4), tmp_path / "none") == []


def test_a_core_that_is_not_allowed_is_refused_with_those_that_are(tmp_path: Path) -> None:
    pair = MINE[:2] if len(MINE) > 1 else [MINE[0], ABSENT]
    machine = topology(tmp_path, dict.fromkeys(MINE, cores.listed(pair)))
    with pytest.raises(UsageFault) as caught:
        cores.hold((MINE[0], ABSENT), machine)
    assert f"core {ABSENT}: only {cores.listed(MINE)}" in caught.value.message
    assert f"some of {cores.listed(MINE)}" in str(caught.value.hint)
    if len(MINE) > 1:
        assert f"share a physical core: {cores.listed(pair)}" in str(caught.value.hint)
    assert sorted(os.sched_getaffinity(0)) == MINE  # nothing was changed


def test_a_job_that_cannot_be_pinned_is_refused_before_anything_runs(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(JobSpec(model="gpt-nano", pin=(ABSENT,)).model_dump_json())
    done = runner.run(spec)
    assert done.fault is not None and done.fault.exit_code == 2 and done.results == []
    assert str(ABSENT) in done.fault.message
    written = JobOutcome.model_validate_json((tmp_path / OUTCOME_FILE).read_bytes())
    assert written == done and written.finished


# Both thread pools at work, with more threads than cores so that each has to be started.
_THREADS = """
import json, pathlib, sys
import numpy, torch
from bench.job.compile import build, target

class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(256, 512)

    def forward(self, x):
        return torch.relu(self.inner(x))

x = torch.ones(64, 256)
model = Wide().eval().requires_grad_(False)
for _ in range(3):
    torch.mm(torch.ones(512, 512), torch.ones(512, 512))
before = len(list(pathlib.Path("/proc/self/task").iterdir()))
where = target.detect_cpu(2)
done = build.compile_module(model, (x,), "optimized", where)
library = pathlib.Path(sys.argv[1])
done.export_library(library)
loaded = build.load(library, build.Parameters(done.params, "cpu"))
loaded(x.numpy())
allowed = set()
tasks = list(pathlib.Path("/proc/self/task").iterdir())
for task in tasks:
    for line in (task / "status").read_text().splitlines():
        if line.startswith("Cpus_allowed_list:"):
            allowed.add(line.split()[1])
print(json.dumps([before, len(tasks), sorted(allowed)]))
"""


def test_no_thread_of_either_pool_leaves_the_pinned_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = MINE[-1]  # TVM, left alone, counts from the first
    for name, value in (("OMP_PROC_BIND", "close"), ("OMP_PLACES", "cores")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TVM_BIND_THREADS", "1")
    spec = JobSpec(pin=(last,), threads=2)
    done = subprocess.run(
        [sys.executable, "-c", _THREADS, str(tmp_path / "lib.so")],
        cwd=ROOT,
        env=runner._child_environment(spec),
        preexec_fn=lambda: os.sched_setaffinity(0, {last}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    before, after, allowed = json.loads(done.stdout.splitlines()[-1])
    assert before > 1  # PyTorch's pool was there
    assert after > before  # and TVM's
    assert allowed == [str(last)]


class Containers:
    """An engine's containers: what was asked for, or the refusal."""

    def __init__(self, refusal: str | None = None) -> None:
        self.asked: dict[str, Any] = {}
        self._refusal = refusal

    def create(self, image: str, command: list[str], **asked: Any) -> object:
        if self._refusal is not None:
            from docker.errors import APIError

            raise APIError("400", explanation=self._refusal)
        self.asked = asked
        return object()


class Client:
    def __init__(self, containers: Containers) -> None:
        self.containers = containers


def created(containers: Containers, pin: tuple[int, ...] | None) -> None:
    engine = docker.DockerEngine(Client(containers), "image")  # type: ignore[arg-type]
    launch = Launch("run", Path("/run"), Path("/store"), 1.0, pin=pin)
    engine._create(launch, docker.Identity("1:1"), Limits())


def test_a_container_gets_the_pinned_cores_and_no_others() -> None:
    containers = Containers()
    created(containers, (0, 1, 2, 5))
    assert containers.asked["cpuset_cpus"] == "0-2,5"
    created(containers, None)
    assert containers.asked["cpuset_cpus"] is None


def test_an_engine_without_these_cores_is_quoted() -> None:
    said = "Requested CPUs are not available - requested 9, available: 0-1"
    with pytest.raises(UsageFault) as caught:
        created(Containers(said), (9,))
    assert said in caught.value.message and "--pin" in str(caught.value.hint)


def test_runs_that_are_pinned_otherwise_are_not_alike() -> None:
    free = histories.record("free")
    first, second = (histories.record(f"on-{core}", spec=JobSpec(pin=(core,))) for core in (0, 1))
    assert [str(one) for one in identity.differences(free, first) if one.refused] == [
        "pin: none and 0"
    ]
    assert [str(one) for one in identity.differences(first, second) if one.refused] == [
        "pin: 0 and 1"
    ]
    assert identity.differences(first, first) == []
