"""Training: it learns, what it leaves behind, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import pytest
import tokenizers
import torch

from bench import checkpoint
from bench.catalog import GPTConfig
from bench.errors import UsageFault
from bench.job import bigram, gpt, tokenizer, train_model, weights
from bench.job.schedule import learning_rate
from bench.job.text import CharTokenizer
from bench.training import PRESETS, read_state
from tests.unit.training_runs import TEXT, Jobs, losses, spec

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=11)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    return Jobs(tmp_path, monkeypatch)


def test_a_gpt_learns_and_leaves_a_checkpoint_that_can_be_loaded(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    done, directory = jobs.run(spec(steps=60, decay_steps=60, eval_every=20, learning_rate=1e-2))
    first, last = done.curve[0], done.curve[-1]
    assert first.val_loss == pytest.approx(math.log(done.vocab_size), abs=0.1)  # it knows nothing
    assert last.val_loss < first.val_loss - 0.5
    assert [point.step for point in done.curve] == [0, 20, 40, 60]
    assert (done.stopped, done.reason, done.steps_done) == ("finished", None, 60)
    assert done.best_val_loss == min(point.val_loss for point in done.curve)
    assert done.last_val_loss == last.val_loss
    assert done.train_tokens == int(0.9 * len(TEXT))
    assert done.train_tokens + done.val_tokens == len(TEXT)
    kept = directory / "checkpoint"
    assert {path.name for path in kept.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocabulary.json",
        "optimizer.safetensors",
        "state.json",
    }
    assert done.checkpoint_sha256 == checkpoint.digest(kept)
    assert done.checkpoint_step == 60
    model = weights.load_gpt(kept)
    assert model.config == GPTConfig(2, 2, 16, 8, len(set(TEXT)))
    assert done.parameters == gpt.parameter_count(model.config)
    words = tokenizer.load(kept)
    assert words.decode(words.encode("over 5 stiles")) == "over 5 stiles"
    # Nothing of the work is left beside it.
    assert {path.name for path in directory.iterdir()} == {"checkpoint", "loss.csv"}
    out = capsys.readouterr().out
    assert "step 40: loss " in out
    assert "progress 60 60 finished" in out


def test_the_full_validation_loss_is_that_of_the_saved_model_over_every_block(jobs: Jobs) -> None:
    done, directory = jobs.run(spec())
    model, words = weights.load_gpt(directory / "checkpoint"), CharTokenizer.from_text(TEXT)
    held = torch.tensor(words.encode(TEXT)[int(0.9 * len(TEXT)) :])
    total, count = 0.0, 0
    for start in range(0, len(held) - 8, 8):
        logits = model(held[None, start : start + 8])
        chances = logits.log_softmax(-1)[0]
        total -= float(chances[torch.arange(8), held[start + 1 : start + 9]].sum())
        count += 8
    assert done.full_val_tokens == count
    assert done.full_val_loss == pytest.approx(total / count, rel=1e-5)


def test_the_curve_is_a_table_with_every_point(jobs: Jobs) -> None:
    done, directory = jobs.run(spec())
    rows = list(csv.DictReader((directory / "loss.csv").open()))
    assert [float(row["val_loss"]) for row in rows] == [one.val_loss for one in done.curve]
    assert [int(row["step"]) for row in rows] == [0, 4, 8, 12]
    assert rows[0]["tokens_per_s"] == ""  # nothing was trained yet
    assert float(rows[1]["tokens_per_s"]) > 0


def test_the_last_step_is_evaluated_off_the_beat(jobs: Jobs) -> None:
    done, _ = jobs.run(spec(steps=6))
    assert [point.step for point in done.curve] == [0, 4, 6]


def test_the_same_seed_gives_the_same_losses_and_another_gives_others(jobs: Jobs) -> None:
    first, again, other = (jobs.run(spec(seed=seed))[0] for seed in (3, 3, 4))
    assert losses(first) == losses(again)
    assert losses(first) != losses(other)


def test_the_bigram_learns_and_is_loaded_again(jobs: Jobs) -> None:
    done, directory = jobs.run(
        spec("bigram", steps=80, decay_steps=80, learning_rate=0.1, eval_every=40)
    )
    assert done.curve[-1].val_loss < done.curve[0].val_loss - 1
    kept = directory / "checkpoint"
    assert json.loads((kept / "config.json").read_text())["model_type"] == "bigram"
    model = bigram.load(kept)
    words = tokenizer.load(kept)
    logits = model(torch.tensor([words.encode("v")]))
    assert words.decode([int(logits[0, -1].argmax())]) == "e"  # of "over"


def test_training_goes_on_from_given_weights_with_their_vocabulary(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=40, decay_steps=40, eval_every=40, learning_rate=1e-2))
    kept = directory / "checkpoint"
    jobs.give("init", kept)
    wanted = spec("finetune", init_sha256=checkpoint.digest(kept), block_size=4, steps=2)
    done, second = jobs.run(wanted)
    assert done.curve[0].step == 0
    assert done.curve[0].val_loss < 2.5  # not a beginner's, log(24) = 3.2
    assert done.init_sha256 == checkpoint.digest(kept)
    assert done.resumed_from_step is None
    # A shorter block trains the same positions; the model keeps all it has.
    assert weights.load_gpt(second / "checkpoint").config.block_size == 8
    assert read_state(second / "checkpoint").step == 2


def test_weights_with_merges_are_trained_on_with_their_own_tokenizer(
    jobs: Jobs, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    weights.save_gpt(gpt.build(GPTConfig(1, 2, 16, 8, vocab_size=300), seed=1), kept)
    merged = tokenizers.ByteLevelBPETokenizer()
    merged.train_from_iterator([TEXT], vocab_size=290, show_progress=False)
    merged.save(str(kept / "tokenizer.json"))
    jobs.give("init", kept)
    done, directory = jobs.run(spec("finetune", init_sha256=checkpoint.digest(kept), steps=4))
    assert done.vocab_size == 300  # the model's, which is over the tokenizer's
    assert done.train_tokens + done.val_tokens == len(merged.encode(TEXT).ids) < len(TEXT)
    words = tokenizer.load(directory / "checkpoint")
    assert words.encode("over 5 stiles") == merged.encode("over 5 stiles").ids
    rest, _ = jobs.resume(spec("finetune", init_sha256=done.init_sha256, steps=8), directory)
    assert (rest.stopped, rest.resumed_from_step, rest.steps_done) == ("finished", 4, 8)


def test_given_weights_refuse_a_text_in_other_characters(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=1))
    jobs.give("init", directory / "checkpoint")
    text = "leap over " * 65 + "\N{SNOWMAN}" + "over" * 50
    digest = checkpoint.digest(directory / "checkpoint")
    with pytest.raises(UsageFault, match=r"'☃' \(U\+2603\) at position 650"):
        jobs.run(spec(init_sha256=digest, text=text), text=text)


def test_a_block_longer_than_the_given_model_is_refused(jobs: Jobs) -> None:
    _, directory = jobs.run(spec(steps=1))
    jobs.give("init", directory / "checkpoint")
    digest = checkpoint.digest(directory / "checkpoint")
    with pytest.raises(UsageFault, match="16 tokens is longer than the 8 positions") as caught:
        jobs.run(spec(init_sha256=digest, block_size=16))
    assert caught.value.hint == "--block-size 8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the text is empty"),
        (b"caf\xe9 au lait", r"not UTF-8: byte 0xe9 at position 3"),
        (b"to be", "5 tokens, of which the training split has 4; a block of 8 needs 9"),
        (b"to be or not to be, that is it", "the validation split has 3; a block of 8 needs 9"),
    ],
)
def test_a_text_that_cannot_be_trained_on_is_refused(jobs: Jobs, text: bytes, message: str) -> None:
    directory = jobs.directory()
    with pytest.raises(UsageFault, match=message):
        jobs.run(spec(text=text), directory, text)
    assert list(directory.iterdir()) == []


def test_another_text_than_the_spec_names_is_refused(jobs: Jobs) -> None:
    with pytest.raises(UsageFault, match=r"another one: sha256 [0-9a-f]{64}, expected"):
        jobs.run(spec(), text=TEXT + "!")


def test_without_its_inputs_or_a_gpu_it_says_so(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageFault, match="GPT_FRONTEND_IN_RESUME is not set"):
        jobs.run(spec(resume_sha256="0" * 64))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageFault, match="no GPU") as caught:
        jobs.run(spec(device="cuda"))
    assert "--device cpu" in str(caught.value.hint)
    jobs.give("text", tmp_path / "gone.txt")
    from bench.job import train

    with pytest.raises(UsageFault, match="cannot read the text a test's text: No such file"):
        train.run(spec(), tmp_path)


def test_fresh_weights_are_initialised_as_gpt_2_is() -> None:
    model = train_model.initialised(GPTConfig(8, 2, 64, 32, 100), 0.0, seed=1)
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif tensor.dim() == 1:
            assert (tensor == 1).all(), name
        else:
            wanted = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert float(tensor.detach().std()) == pytest.approx(wanted, rel=0.1), name


def test_the_trained_model_is_the_gpt_that_is_compiled() -> None:
    plain = gpt.build(CONFIG, seed=1)
    copy = train_model.trainable(plain, dropout=0.5)
    assert list(copy.state_dict()) == list(plain.state_dict())
    tokens = gpt.tokens_for(CONFIG, 2, 8, seed=2)
    assert torch.equal(copy.eval()(tokens), plain(tokens))
    assert all(parameter.requires_grad for parameter in copy.parameters())


def test_dropout_drops_in_training_alone_and_its_seed_decides_what() -> None:
    model = train_model.initialised(CONFIG, 0.5, seed=1)
    tokens = gpt.tokens_for(CONFIG, 2, 8, seed=2)

    def dropped(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        out: torch.Tensor = model.train()(tokens)
        return out

    assert torch.equal(dropped(1), dropped(1))
    assert not torch.allclose(dropped(1), dropped(2))
    assert not torch.allclose(dropped(1), model.eval()(tokens))
    assert torch.equal(model.eval()(tokens), model.eval()(tokens))


def test_each_place_that_drops_does() -> None:
    """With everything dropped at one place, nothing of what is before it comes through."""
    tokens = gpt.tokens_for(CONFIG, 2, 8, seed=2)
    for place in ("embed", "attn.dropout", "attn.c_proj.dropout", "mlp.c_proj.dropout"):
        model = train_model.initialised(CONFIG, 0.0, seed=1).train()
        before = model(tokens)
        if place == "embed":
            model.dropout = 0.5
        else:
            path, _, name = f"h.1.{place}".rpartition(".")
            setattr(model.get_submodule(path), name, 0.5)
        assert not torch.allclose(before, model(tokens)), place


def test_the_loss_is_the_mean_negative_log_probability_of_the_targets() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # (B, T, V) = (1, 2, 2)
    targets = torch.tensor([[0, 0]])
    right = math.exp(2) / (math.exp(2) + 1), 1 / (1 + math.e)
    expected = -(math.log(right[0]) + math.log(right[1])) / 2
    assert float(train_model.loss_of(logits, targets)) == pytest.approx(expected, rel=1e-6)


def test_matrices_and_embeddings_decay_and_biases_and_norms_do_not() -> None:
    model = train_model.initialised(CONFIG, 0.0, seed=1)
    optimizer = train_model.optimizer_for(model, PRESETS["char-cpu"])
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or ".ln_" in f".{name}"
        assert decay.pop(id(parameter)) == (0.0 if plain else 0.1), name
    assert not decay
    assert optimizer.defaults["betas"] == (0.9, 0.99)


def test_the_learning_rate_rises_falls_as_a_cosine_and_stays() -> None:
    wanted = PRESETS["char-cpu"]
    rates = [learning_rate(step, wanted) for step in range(2200)]
    assert 0 < rates[0] < 2.2e-5
    assert rates[99] < rates[100] == max(rates) == 2e-3
    assert rates[1050] == pytest.approx((2e-3 + 2e-4) / 2)  # the cosine's middle
    assert rates[2000:] == [2e-4] * 200
    assert all(a < b for a, b in itertools.pairwise(rates[:101]))
    assert all(a > b for a, b in itertools.pairwise(rates[100:2001]))


def test_a_schedule_without_warm_up_or_without_decay_has_no_gap() -> None:
    def at(step: int, warmup: int, decay_steps: int) -> float:
        changed = {"warmup": warmup, "decay_steps": decay_steps}
        return learning_rate(step, PRESETS["char-cpu"].model_copy(update=changed))

    assert at(0, 0, 10) == 2e-3
    assert at(5, 5, 5) == 2e-4


def test_a_large_gradient_is_clipped(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def noted(parameters: object, most: float) -> torch.Tensor:
        limits.append(most)
        return clip(parameters, most)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    clipped, _ = jobs.run(spec(steps=4, grad_clip=1e-6))
    free, _ = jobs.run(spec(steps=4, grad_clip=0.0))
    assert limits == [1e-6] * 4 + [float("inf")] * 4
    assert losses(clipped) != losses(free)
