"""Every backend computes with the threads that were asked for, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.job import runner
from bench.limits import available_cores
from bench.record import JobSpec
from tests.conftest import ROOT

# In a step's environment: what each runtime says of itself. PyTorch takes OMP_NUM_THREADS.
_ASKED = """
import json, sys
import onnxruntime, torch
from bench.job import models, modes
from bench.job.backends import onnxruntime as ours
from bench.job.compile import api
from bench.record import JobSpec
threads = json.loads(sys.argv[1])
spec = JobSpec(model="gpt-nano", seq_len=4, threads=threads)
made = []
kept = onnxruntime.InferenceSession
def session(*args, **options):
    made.append(kept(*args, **options))
    return made[-1]
onnxruntime.InferenceSession = session
ours.ONNXRUNTIME.prepare(spec, modes.programs(spec, models.build(spec)))
options = made[0].get_session_options()
print(json.dumps({
    "torch": torch.get_num_threads(),
    "onnxruntime": options.intra_op_num_threads,
    "between operators": options.inter_op_num_threads,
    "tvm": api.tvm.get_global_func("runtime.NumThreads")(),
}))
"""


@pytest.mark.parametrize("threads", [1, None])
def test_every_runtime_has_the_threads_asked_for(threads: int | None) -> None:
    spec = JobSpec(threads=threads)
    done = subprocess.run(
        [sys.executable, "-c", _ASKED, json.dumps(threads)],
        cwd=ROOT,
        env=runner._child_environment(spec),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count = threads or available_cores()
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("between operators") == 1
    assert said == {"torch": count, "onnxruntime": count, "tvm": count}


def test_what_the_caller_has_set_does_not_go_before_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("TVM_NUM_THREADS", "7")
    found = runner._child_environment(JobSpec(threads=3))
    assert (found["OMP_NUM_THREADS"], found["TVM_NUM_THREADS"]) == ("3", "3")
    assert os.environ["OMP_NUM_THREADS"] == "7"
