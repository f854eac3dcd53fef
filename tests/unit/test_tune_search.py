"""Real searches, tiny: through the child, killed in the middle, resumed, and what comes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from bench.errors import UsageFault
from bench.job import artefacts, models, modes
from bench.job.backends import tvm as backend
from bench.job.compile import build, importer, pipelines, tasks
from bench.job.compile.schedules import matmul, plain, rows
from bench.job.compile.target import detect_cpu
from bench.job.tune import compare, database, supervise
from bench.record import JobOutcome
from bench.tuning import OUTCOMES, VALID, TuneSpec, Tuning
from tests.conftest import ROOT

SPEC = TuneSpec(model="gpt-nano", seq_len=2, budget_s=600, batch=2, max_trials=4, threads=1)


def begun(directory: Path, store: Path, spec: TuneSpec) -> subprocess.Popen[str]:
    directory.mkdir()
    (directory / "spec.json").write_text(spec.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "bench.job", str(directory / "spec.json")],
        cwd=ROOT,
        env={**os.environ, "GPT_FRONTEND_STORE": str(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome(directory: Path) -> Tuning:
    found = JobOutcome.model_validate_json((directory / "outcome.json").read_bytes())
    assert found.fault is None and found.tuning is not None
    return found.tuning


def kill_the_tuner_once_it_has_a_trial(job: subprocess.Popen[str], store: Path) -> None:
    """SIGKILL to the search's process alone, after its first trial."""
    while job.poll() is None:
        if any(path.stat().st_size for path in store.glob("tuning/*/*/trials.jsonl")):
            for child in psutil.Process(job.pid).children(recursive=True):
                if "bench.job.tune.search" in child.cmdline():
                    child.send_signal(signal.SIGKILL)
                    return
        time.sleep(0.02)


@dataclass(frozen=True)
class Killed:
    """A search whose tuner was killed after its first trial, and which went on."""

    store: Path
    said: str
    tuning: Tuning
    directory: Path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """One search for all tests, since starting one takes seconds."""
    folder = tmp_path_factory.mktemp("tune")
    store, directory = folder / "store", folder / "first"
    job = begun(directory, store, SPEC)
    killer = threading.Thread(target=kill_the_tuner_once_it_has_a_trial, args=(job, store))
    killer.start()
    said, _ = job.communicate(timeout=900)
    killer.join()
    return Killed(store, said, outcome(directory), directory)


def test_a_killed_tuner_loses_no_trial_and_is_followed_by_another(killed: Killed) -> None:
    first, (death,) = killed.tuning, killed.tuning.deaths
    assert "SIGKILL" in death.reason and "the tuner died" in killed.said
    assert death.trials >= 1 and death.task == first.tasks[0].key
    assert first.stopped == "trials" and first.trials == SPEC.max_trials, killed.said
    assert set(first.counts) == set(OUTCOMES) and first.counts[VALID] >= 1
    # Every valid trial is in MetaSchedule's own database too.
    records = killed.store / "tuning" / first.database / database.RECORDS
    assert len(records.read_text().splitlines()) == first.counts[VALID]
    assert {path.name for path in killed.directory.iterdir()} == {"spec.json", "outcome.json"}


def test_the_largest_product_is_searched_for_first_and_held_against_ours(killed: Killed) -> None:
    first = killed.tuning
    head = first.tasks[0]
    assert head.product and head.name == "linear_2x50257x48"
    assert head.trials >= 2 and head.search_ms and head.tuned_ms
    assert all(task.hand_ms for task in first.tasks) and first.hand_ms
    assert first.series[-1].trials == first.trials and first.series[-1].best_ms


def test_the_next_run_goes_on_where_it_stopped(killed: Killed, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(killed.store, store)
    more = SPEC.model_copy(update={"max_trials": 1})
    job = begun(tmp_path / "second", store, more)
    said, _ = job.communicate(timeout=900)
    resumed = outcome(tmp_path / "second")
    assert resumed.trials_before == killed.tuning.trials == resumed.trials - 1, said
    assert resumed.series[-1].minutes >= killed.tuning.series[-1].minutes
    assert not resumed.deaths


def test_tvm_tuned_takes_what_was_found_and_computes_the_same(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tuned kernel in it, whether or not it is faster here."""
    monkeypatch.setenv("GPT_FRONTEND_STORE", str(killed.store))
    spec, head = SPEC.compiled(), killed.tuning.tasks[0].key
    (program,) = modes.programs(spec, models.build(spec)).values()
    key = database.program_key(backend.program_parts(spec, modes.FORWARD, program))
    target = backend.target_of(spec)
    place = database.of(killed.store, build.tvm_build_id(), target.to_dict())
    best = database.read_best(place.program(key))
    assert best.digest == killed.tuning.digest
    database.write_best(place.program(key), {**best.tasks, head: {"trace": _trace(place, head)}})
    prepared = backend.TVM_TUNED.prepare(spec, {modes.FORWARD: program})
    assert prepared.compile_cached is False
    trials = database.read_trials(place.program(key))
    assert prepared.tuning_s == trials[-1].at_s > 0
    (tokens,) = program.example
    ready = prepared.ready
    out = ready.view(ready.run(modes.FORWARD, ready.stage(tokens))[0])
    with torch.no_grad():
        expected = program.module(tokens)
    assert torch.allclose(out, expected, atol=1e-4)
    assert backend.TVM_TUNED.prepare(spec, {modes.FORWARD: program}).compile_cached
    database.write_best(place.program(key), {})  # another digest, another artefact
    again = backend.TVM_TUNED.compile_only(spec, {modes.FORWARD: program})
    assert again.artefact != prepared.artefact


def _trace(place: database.Database, key: str) -> object:
    """The trace of a record of the task, straight from MetaSchedule's files."""
    hashes = [
        json.loads(line)[0] for line in (place.path / database.WORKLOADS).read_text().splitlines()
    ]
    for line in (place.path / database.RECORDS).read_text().splitlines():
        workload, record = json.loads(line)
        if int(hashes[workload]) == int(key, 16):
            return record[0]
    raise AssertionError(f"no record of {key} among {hashes}")


def test_without_a_database_tvm_tuned_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_FRONTEND_STORE", str(tmp_path))
    spec = SPEC.compiled()
    with pytest.raises(database.NotTuned, match="nothing is tuned for gpt-nano") as caught:
        backend.TVM_TUNED.compile_only(spec, modes.programs(spec, models.build(spec)))
    assert "invoke tune --model gpt-nano" in str(caught.value.hint)
    assert artefacts.store_root() == tmp_path and list(tmp_path.iterdir()) == []


def test_what_metaschedule_lacks_is_said_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cloudpickle" else found(name)
    )
    with pytest.raises(UsageFault, match="needs cloudpickle") as caught:
        supervise.run(SPEC, tmp_path)
    assert "make setup" in str(caught.value.hint) and list(tmp_path.iterdir()) == []


def test_every_plain_definition_computes_what_its_kernel_does() -> None:
    """So that one can stand in for the other: the same arguments, the same result."""
    spec = TuneSpec(model="gpt-nano", seq_len=3).compiled()
    (program,) = modes.programs(spec, models.build(spec)).values()
    target = detect_cpu(1)
    mod = importer.import_module(program.module, program.example).mod
    found, kept = tasks.extract(pipelines.to_kernels(mod, target), target)
    ours = [task for task in found if plain.of(task.hand) is not None]
    names = {task.name.split("_")[0] for task in ours}
    assert {"linear", "layer"} <= names and len(ours) >= 6
    assert any("attention" in name for name in kept)
    assert sum(task.weight for task in ours if task.product) == 3 * 4 + 1  # and the head
    for task in ours:
        bench = compare.Bench(task.hand)
        hand = bench.output(bench.call(task.hand, target.tvm()))
        simple = bench.output(
            bench.call(task.mod["main"].without_attr("global_symbol"), target.tvm())
        )
        assert compare.agree(hand, simple), task.name
        assert np.abs(hand).max() > 0


def test_the_other_plain_definitions_compute_what_their_kernels_do() -> None:
    target = detect_cpu(1)
    for kernel in (matmul.matmul(2, 5, 7, 24, target), rows.softmax(5, 19, target)):
        bench = compare.Bench(kernel)
        hand = bench.output(bench.call(kernel, target.tvm()))
        simple = bench.output(bench.call(plain.of(kernel), target.tvm()))
        assert compare.agree(hand, simple)
        assert not compare.agree(hand, simple + np.float32(0.1) * np.abs(hand).max())


def test_a_kernel_that_leaves_some_out_does_not_pass_for_the_one_before_it() -> None:
    bench = compare.Bench(rows.softmax(3, 5, detect_cpu(1)))
    whole = bench.output(bench.call(rows.softmax(3, 5, detect_cpu(1)), detect_cpu(1).tvm()))
    assert np.isfinite(whole).all()
    assert not compare.agree(whole, bench.output(lambda: None))


def test_the_pipeline_goes_as_far_as_it_says_and_leaves_the_rest_alone() -> None:
    assert pipelines.pipeline("tuned").cpu[:4] == pipelines.pipeline("optimized").cpu[:4]
