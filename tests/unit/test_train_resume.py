"""Stopping and going on: the same losses, the last good checkpoint, nothing half written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from bench import checkpoint
from bench.errors import JobFailed, UsageFault
from bench.job import train_model, training_state
from bench.job.text import CharTokenizer
from bench.training import (
    State,
    Training,
    TrainSpec,
    check_resumable,
    read_state,
    settle,
)
from tests.unit.training_runs import TEXT, Jobs, losses, model_bytes, spec, sum_of


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    return Jobs(tmp_path, monkeypatch)


class After:
    """Does something when a number of updates is made, by way of the optimizer's factory."""

    def __init__(self, patch: pytest.MonkeyPatch, updates: int, action: Any) -> None:
        self.seen = 0
        make = train_model.optimizer_for

        def factory(model: torch.nn.Module, wanted: Any) -> torch.optim.AdamW:
            optimizer = make(model, wanted)

            def hook(*_: object) -> None:
                self.seen += 1
                if self.seen == updates:
                    action(model)

            optimizer.register_step_post_hook(hook)
            return optimizer

        patch.setattr(train_model, "optimizer_for", factory)


def interrupted(jobs: Jobs, wanted: TrainSpec, updates: int) -> tuple[Training, Path]:
    """A run that a SIGTERM reaches in the midst of its ``updates``-th update."""
    with pytest.MonkeyPatch.context() as patch:
        After(patch, updates, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return jobs.run(wanted)


@pytest.mark.parametrize("updates", [1, 4, 6, 11])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one(
    jobs: Jobs, updates: int, dropout: float
) -> None:
    whole, whole_directory = jobs.run(spec(dropout=dropout))
    part, part_directory = interrupted(jobs, spec(dropout=dropout), updates)
    assert (part.stopped, part.steps_done) == ("interrupted", updates)
    assert part.reason == f"stopped by SIGTERM at step {updates} of 12"
    rest, rest_directory = jobs.resume(spec(dropout=dropout), part_directory)
    assert rest.resumed_from_step == updates
    assert rest.stopped == "finished"
    # Bit for bit: floats are compared for equality.
    assert losses(rest) == losses(whole)
    assert rest.full_val_loss == whole.full_val_loss
    assert model_bytes(rest_directory) == model_bytes(whole_directory)
    assert (
        training_state.sum_of(rest_directory / "checkpoint" / "optimizer.safetensors")
        == training_state.sum_of(whole_directory / "checkpoint" / "optimizer.safetensors")
    )  # fmt: skip
    assert rest.elapsed_s > part.elapsed_s  # the time before counts


def test_a_bigram_is_resumed_as_exactly(jobs: Jobs) -> None:
    whole, whole_directory = jobs.run(spec("bigram"))
    _, part_directory = interrupted(jobs, spec("bigram"), 5)
    rest, rest_directory = jobs.resume(spec("bigram"), part_directory)
    assert losses(rest) == losses(whole)
    assert model_bytes(rest_directory) == model_bytes(whole_directory)


def test_a_finished_run_can_be_taken_further(jobs: Jobs) -> None:
    whole, whole_directory = jobs.run(spec(steps=12, decay_steps=8))
    _, directory = jobs.run(spec(steps=8, decay_steps=8))
    rest, rest_directory = jobs.resume(spec(steps=12, decay_steps=8), directory)
    assert losses(rest) == losses(whole)
    assert model_bytes(rest_directory) == model_bytes(whole_directory)


def test_a_resumed_finished_run_with_nothing_left_to_do_is_what_it_was(jobs: Jobs) -> None:
    first, directory = jobs.run(spec())
    again, second = jobs.resume(spec(), directory)
    assert losses(again) == losses(first)
    assert model_bytes(second) == model_bytes(directory)
    assert (again.stopped, again.resumed_from_step) == ("finished", 12)


def test_ctrl_c_keeps_the_checkpoint_of_the_last_whole_step(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def twice(_: object) -> None:  # a group of processes may be told more than once
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    After(monkeypatch, 7, twice)
    done, directory = jobs.run(spec())
    assert done.reason == "stopped by SIGINT at step 7 of 12"
    assert done.checkpoint_step == read_state(directory / "checkpoint").step == 7
    assert done.checkpoint_sha256 == checkpoint.digest(directory / "checkpoint")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_during_an_evaluation_ends_it(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of = train_model.loss_of

    def told(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss_of(logits, targets)

    monkeypatch.setattr(train_model, "loss_of", told)
    done, directory = jobs.run(spec(eval_batches=1000))
    assert (done.stopped, done.steps_done, done.curve) == ("interrupted", 0, [])
    monkeypatch.setattr(train_model, "loss_of", loss_of)
    rest, _ = jobs.resume(spec(), directory)
    assert losses(rest) == losses(jobs.run(spec())[0])


def test_it_trains_outside_the_main_thread_too(jobs: Jobs) -> None:
    found: list[Training] = []
    thread = threading.Thread(target=lambda: found.append(jobs.run(spec(steps=2))[0]))
    thread.start()
    thread.join()
    assert [one.stopped for one in found] == ["finished"]


def test_other_hyperparameters_are_refused_each_with_both_values(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=4))
    with pytest.raises(UsageFault) as caught:
        jobs.resume(spec(batch_size=3, learning_rate=2e-3, seed=5), directory)
    assert caught.value.message == (
        "cannot resume with other hyperparameters: batch_size was 4, now 3; "
        "learning_rate was 0.003, now 0.002; seed was 0, now 5"
    )
    with pytest.raises(UsageFault, match="n_layer was 2, now 1"):
        jobs.resume(spec(n_layer=1), directory)


def test_another_text_is_refused(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=4))
    kept = directory / "checkpoint"
    jobs.give("resume", kept)
    text = TEXT + "more"
    with pytest.raises(UsageFault) as caught:
        jobs.run(spec(text=text, resume_sha256=checkpoint.digest(kept)), text=text)
    assert f"text_sha256 was {sum_of(TEXT)}, now {sum_of(text)}" in caught.value.message


def test_fewer_steps_than_are_made_are_refused(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=8))
    with pytest.raises(UsageFault, match="has made 8 steps already; 4 are wanted"):
        jobs.resume(spec(steps=4), directory)


@pytest.mark.parametrize("free", ["steps", "eval_every", "eval_batches", "threads", "timeout_s"])
def test_what_does_not_change_the_training_may_differ(free: str) -> None:
    check_resumable(spec(), spec().model_copy(update={free: 24}), done=12)


def damaged(jobs: Jobs, name: str, change: Any) -> UsageFault:
    """What a run says to a checkpoint of which one file was changed."""
    _, directory = jobs.run(spec(steps=4))
    change(directory / "checkpoint" / name)
    with pytest.raises(UsageFault) as caught:
        jobs.resume(spec(), directory)
    return caught.value


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", cut, "model.safetensors is damaged or of another run"),
        ("optimizer.safetensors", cut, "optimizer.safetensors is damaged or of another run"),
        ("optimizer.safetensors", Path.unlink, "optimizer.safetensors cannot be read: No such"),
        ("state.json", Path.unlink, "it has no state.json"),
        ("state.json", cut, "state.json is damaged"),
        ("state.json", lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n"), "is damaged"),
        ("vocabulary.json", lambda path: path.write_text("[]"), "is no vocabulary"),
        ("vocabulary.json", Path.unlink, "has no tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_refused(jobs: Jobs, name: str, change: Any, message: str) -> None:
    assert message in damaged(jobs, name, change).message


def test_a_bigrams_vocabulary_must_not_be_larger_than_its_table(jobs: Jobs) -> None:
    _, directory = jobs.run(spec("bigram", steps=4))
    CharTokenizer.from_text(TEXT + "xyz").save(directory / "checkpoint")
    with pytest.raises(UsageFault, match="the tokenizer has 26 tokens, the model 23"):
        jobs.resume(spec("bigram"), directory)


def test_the_optimizers_tensors_must_be_those_of_the_model(jobs: Jobs) -> None:
    """Even where the sums are right: a state may be written by anyone."""

    def foreign(path: Path) -> None:
        file = path.with_name("optimizer.safetensors")
        tensors = load_file(file)
        tensors["exp_avg.wte.weight"] = tensors["exp_avg.wte.weight"][1:].clone()
        save_file(tensors, file)
        state = json.loads(path.read_text())
        state["optimizer_sha256"] = training_state.sum_of(file)
        path.write_text(json.dumps(state))

    said = damaged(jobs, "state.json", foreign).message
    assert "optimizer.safetensors has (22, 16) for exp_avg.wte.weight" in said
    assert "the parameter is (23, 16)" in said


def test_a_checkpoint_that_changed_since_the_request_is_refused(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=4))
    jobs.give("resume", directory / "checkpoint")
    with pytest.raises(UsageFault, match="the checkpoint to resume changed"):
        jobs.run(spec(resume_sha256="0" * 64))


def test_a_full_disk_leaves_the_checkpoint_before(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = jobs.directory()
    save = safetensors.torch.save_file
    calls = []

    def fill(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(training_state, "save_file", fill)
    with pytest.raises(JobFailed) as caught:
        jobs.run(spec(), directory)
    assert caught.value.message == (
        "cannot write the checkpoint of step 4: [Errno 28] No space left on device; "
        "that of step 0 is kept"
    )
    assert read_state(directory / "checkpoint").step == 0
    assert {path.name for path in directory.iterdir()} == {"checkpoint", "loss.csv"}


def test_a_disk_that_is_full_from_the_start_is_no_failed_training(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    directory = jobs.directory()
    monkeypatch.setattr(training_state, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        jobs.run(spec(), directory)
    assert list(directory.iterdir()) == []


def test_too_little_memory_on_a_gpu_is_told_with_what_to_change(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")

    After(monkeypatch, 1, too_much)
    with pytest.raises(JobFailed, match=r"too little memory: CUDA out .* 2 GiB\.$") as caught:
        jobs.run(spec())
    assert "--batch-size" in str(caught.value.hint)


def test_a_job_killed_between_the_two_renames_leaves_a_whole_checkpoint(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=4))
    kept = directory / "checkpoint"
    content = {path.name: path.read_bytes() for path in kept.iterdir()}
    shutil.copytree(kept, directory / "checkpoint.partial")
    kept.rename(directory / "checkpoint.previous")
    assert settle(directory) == kept
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == content
    assert {path.name for path in directory.iterdir()} == {"checkpoint", "loss.csv"}
    # And where the new one had taken its place already, that is the one which stays.
    (directory / "checkpoint.previous").mkdir()
    assert settle(directory) == kept
    assert not (directory / "checkpoint.previous").exists()


def test_a_job_that_never_saved_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.partial").mkdir()
    (tmp_path / "tokens.bin").write_bytes(b"the encoded text of a job that was killed")
    (tmp_path / "loss.csv.partial").touch()
    assert settle(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_a_later_version_is_refused(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=4))
    path = directory / "checkpoint" / "state.json"
    later = json.loads(path.read_text()) | {"schema_version": 2}
    path.write_text(json.dumps(later))
    with pytest.raises(UsageFault, match="schema_version"):
        read_state(directory / "checkpoint")


def test_the_state_holds_the_spec_and_the_curve(jobs: Jobs) -> None:
    wanted = spec(steps=4)
    done, directory = jobs.run(wanted)
    state = read_state(directory / "checkpoint")
    assert isinstance(state, State)
    assert state.spec == wanted
    assert state.curve == done.curve
