"""A step of a job that dies: the reason, and what to do about it, reach the row and the user."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch

from bench.errors import NotHere, UsageFault
from bench.host import launch, report
from bench.host.engine.base import Ending
from bench.job import contract, death, runner, worker
from bench.record import Fault, JobOutcome, JobSpec, StepReport
from tests.unit.samples import environment

SPEC = JobSpec(model="gpt-nano", backends=("torch-eager",))


def step_that(raises: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fault:
    """What the worker hands back of a step that raises."""

    def fail(*_: object) -> StepReport:
        raise raises

    monkeypatch.setattr(worker, "run_step", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    path = tmp_path / "spec.json"
    path.write_text(SPEC.model_dump_json())
    assert worker.main(["torch-eager", str(path), str(tmp_path), "0"]) == 0
    fault = StepReport.model_validate_json((tmp_path / "torch-eager.json").read_bytes()).fault
    assert fault is not None
    return fault


def test_out_of_memory_says_what_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = step_that(MemoryError(), monkeypatch, tmp_path)
    assert fault.message == "out of memory" and "--batch-size" in str(fault.hint)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)  # PyTorch's own words
    fault = step_that(caught.value, monkeypatch, tmp_path)
    assert fault.hint == death.MEMORY
    fault = step_that(torch.OutOfMemoryError("CUDA out of memory."), monkeypatch, tmp_path)
    assert "nvidia-smi" in str(fault.hint)
    assert step_that(ValueError("no"), monkeypatch, tmp_path).hint is None


def test_what_a_backend_lacks_here_is_a_skipped_row_beside_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = step_that(NotHere("no such library", hint="another"), monkeypatch, tmp_path)
    assert (fault.message, fault.exit_code) == ("no such library", 2)
    report = StepReport.model_validate_json((tmp_path / "torch-eager.json").read_bytes())
    assert report.result is not None and report.result.status == "skipped"
    assert report.result.reason == "no such library (hint: another)"
    step_that(UsageFault("not at all"), monkeypatch, tmp_path)
    report = StepReport.model_validate_json((tmp_path / "torch-eager.json").read_bytes())
    assert report.result is None


@pytest.mark.parametrize(
    ("ending", "words", "remedy"),
    [
        ("kill -KILL $$", "was killed by SIGKILL (out of memory?)", "dmesg"),
        ("kill -SEGV $$", "was killed by SIGSEGV", "job.log"),
        ("exit 3", "ended with exit code 3", "job.log"),
    ],
)
def test_a_step_that_dies_is_a_row_with_a_remedy(
    ending: str, words: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nulimit -c 0\n{ending}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    fault = runner._step("torch-eager", tmp_path / "spec.json", SPEC, tmp_path).fault
    assert fault is not None and fault.message == f"the process {words}"
    assert remedy in str(fault.hint)
    row = runner._failed_row("torch-eager", SPEC, fault)
    assert row.reason == f"{fault.message} (hint: {fault.hint})"


def test_a_fault_of_the_whole_job_reaches_the_record_with_its_remedy() -> None:
    fault = Fault(message="the process was killed", hint="a smaller --model")
    outcome = JobOutcome(environment=environment(), fault=fault, finished=True)
    reason = launch._reason(Ending("exited", exit_code=0), outcome)
    assert reason == "the process was killed (hint: a smaller --model)"
    assert report.plain(reason) == reason
    assert fault.model_copy(update={"hint": None}).told == "the process was killed"


def test_a_question_of_the_contract_that_is_killed_says_whose_memory_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nkill -{int(signal.SIGKILL)} $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(contract.NoAnswer, match="SIGKILL") as caught:
        contract.ask("identity")
    assert "the engine's machine" in str(caught.value.remedy)
