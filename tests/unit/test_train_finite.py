"""Numbers that are none end a training, and never take the place of its last good checkpoint."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import checkpoint
from bench.errors import UsageFault
from bench.job import training_state
from bench.job.text import CharTokenizer
from bench.training import read_state
from tests.unit.test_train_resume import After
from tests.unit.training_runs import TEXT, Jobs, losses, spec


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    return Jobs(tmp_path, monkeypatch)


def model_file(directory: Path) -> Path:
    return directory / "checkpoint" / "model.safetensors"


def poison(model: torch.nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


@pytest.mark.parametrize(
    ("updates", "step", "kept", "what"),
    [(6, 6, 4, "the loss is nan"), (8, 8, 4, "the loss of an evaluation is nan")],
)
def test_a_loss_that_is_no_number_stops_it_and_keeps_the_last_good_checkpoint(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, updates: int, step: int, kept: int, what: str
) -> None:
    After(monkeypatch, updates, poison)
    done, directory = jobs.run(spec())
    assert done.stopped == "not finite"
    assert done.reason == f"{what} at step {step}: the checkpoint of step {kept} is kept"
    state = read_state(directory / "checkpoint")
    assert state.step == kept == done.checkpoint_step
    assert done.checkpoint_sha256 == checkpoint.digest(directory / "checkpoint")
    assert [point.step for point in done.curve] == [0, 4]


@pytest.mark.parametrize("updates", [6, 8])
def test_a_stop_does_not_replace_the_last_good_checkpoint_by_weights_that_are_no_numbers(
    jobs: Jobs, updates: int
) -> None:
    """Asked to stop, a run evaluates nothing: at step 8 too, where it otherwise would."""

    def stop(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter("h.1.mlp.c_fc.weight")[3, 5] = float("inf")
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        After(patch, updates, stop)
        done, directory = jobs.run(spec())
    assert (done.stopped, done.steps_done) == ("not finite", updates)
    assert done.reason == (
        f"the parameter h.1.mlp.c_fc.weight is not finite at step {updates}: "
        "the checkpoint of step 4 is kept"
    )
    state = read_state(directory / "checkpoint")
    assert state.step == done.checkpoint_step == 4
    assert done.checkpoint_sha256 == checkpoint.digest(directory / "checkpoint")
    assert all(tensor.isfinite().all() for tensor in load_file(model_file(directory)).values())
    # And from there it goes on as if nothing had been.
    rest, _ = jobs.resume(spec(), directory)
    assert losses(rest) == losses(jobs.run(spec())[0])


def test_a_weight_that_no_loss_meets_is_no_number_either(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bigram's row is looked at only where a text has its character before another one."""
    text = TEXT + "~"  # the last of the validation split: a target at most
    row = CharTokenizer.from_text(text).encode("~")[0]

    def poison_row(model: torch.nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters())[row] = float("nan")

    After(monkeypatch, 4, poison_row)
    done, directory = jobs.run(spec("bigram", text=text), text=text)
    assert done.stopped == "not finite"
    assert str(done.reason).endswith("is not finite at step 4: the checkpoint of step 0 is kept")
    assert read_state(directory / "checkpoint").step == 0


def test_a_checkpoint_of_weights_that_are_no_numbers_is_not_gone_on_with(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=4))
    file, path = model_file(directory), directory / "checkpoint" / "state.json"
    tensors = load_file(file)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, file)
    state = json.loads(path.read_text()) | {"model_sha256": training_state.sum_of(file)}
    path.write_text(json.dumps(state))
    with pytest.raises(UsageFault, match="holds values that are not finite numbers"):
        jobs.resume(spec(), directory)


def test_a_gradient_that_is_no_number_stops_it_before_it_is_applied(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = torch.nn.utils.clip_grad_norm_
    calls = []

    def endless(parameters: Any, most: float) -> torch.Tensor:
        calls.append(most)
        return torch.tensor(float("inf")) if len(calls) == 3 else clip(parameters, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", endless)
    done, _ = jobs.run(spec())
    assert done.stopped == "not finite"
    assert str(done.reason).startswith("the gradient's norm is inf at step 2: the checkpoint of")


def test_a_learning_rate_that_is_far_too_high_is_stopped(jobs: Jobs) -> None:
    done, directory = jobs.run(
        spec(learning_rate=1000, min_lr=1000, warmup=0, steps=40, decay_steps=40, eval_every=40)
    )
    assert done.stopped == "not finite"
    assert done.steps_done < 40
    assert read_state(directory / "checkpoint").step == 0
