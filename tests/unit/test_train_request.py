"""What `invoke train`'s options become: a spec and its inputs, or what to type instead."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench import checkpoint
from bench.catalog import MODELS, GPTConfig
from bench.errors import UsageFault
from bench.host import assets, pins
from bench.host import train as request
from bench.job import bigram, gpt, weights
from bench.job.text import CharTokenizer
from bench.training import PRESETS, TrainSpec
from tests.unit.text_server import TextServer, serving
from tests.unit.training_runs import SMALL, TEXT, Jobs, spec, sum_of

Plan = Callable[..., tuple[TrainSpec, dict[str, Path]]]
PINNED = pins.load().texts["tinyshakespeare"]


@pytest.fixture
def server() -> Iterator[TextServer]:
    with serving(TEXT.encode()) as state:
        yield state


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def plan(tmp_path: Path, environ: dict[str, str], file: Path) -> Plan:
    """The planner with a text that is at hand, where none is named."""

    def planned(**options: Any) -> tuple[TrainSpec, dict[str, Path]]:
        given = {"text": str(file), **options}
        return request.plan(results=tmp_path / "results", environ=environ, **given)

    return planned


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that stopped at step 4 of 12, as it is kept."""
    path = tmp_path / "results" / "20260101-000000-char-tiny-train-abcd"
    path.mkdir(parents=True)
    Jobs(tmp_path, monkeypatch).run(spec(steps=4), path)
    (path / "record.json").write_text("{}")
    state = path / "checkpoint" / "state.json"
    changed = json.loads(state.read_text())
    changed["spec"]["steps"] = 12
    state.write_text(json.dumps(changed))
    return path


def saved(directory: Path, config: GPTConfig) -> Path:
    weights.save_gpt(gpt.build(config, seed=1), directory)
    CharTokenizer(tuple(sorted(set(TEXT)))).save(directory)
    return directory


def test_without_options_it_is_nanogpts_recipe_for_a_cpu(plan: Plan, file: Path) -> None:
    wanted, inputs = plan()
    assert inputs == {"text": file}
    assert (wanted.preset, wanted.model, wanted.device, wanted.seed) == (
        "char-cpu",
        "char-cpu",
        "cpu",
        0,
    )
    assert (wanted.text, wanted.text_sha256) == ("novel.txt", sum_of(TEXT))
    recipe = PRESETS["char-cpu"].model_dump()
    assert {name: getattr(wanted, name) for name in recipe} == recipe
    assert wanted.inputs == ("text",)


def test_the_presets_are_the_published_recipes() -> None:
    cpu, gpu = PRESETS["char-cpu"], PRESETS["char-gpu"]
    for preset, expected, rate in (
        (cpu, (4, 4, 128, 64, 12, 2000, 0.0), 2e-3),  # twice the published one
        (gpu, (6, 6, 384, 256, 64, 5000, 0.2), 1e-3),
    ):
        found = (preset.n_layer, preset.n_head, preset.n_embd, preset.block_size)
        assert (*found, preset.batch_size, preset.steps, preset.dropout) == expected
        assert (preset.learning_rate, preset.min_lr, preset.warmup) == (rate, rate / 10, 100)
        assert (preset.beta1, preset.beta2) == (0.9, 0.99)
        assert (preset.weight_decay, preset.grad_clip) == (0.1, 1.0)
        assert preset.decay_steps == preset.steps


def test_every_preset_makes_a_valid_spec(plan: Plan, tmp_path: Path) -> None:
    kept = saved(tmp_path / "kept", GPTConfig(1, 1, 8, 16, len(set(TEXT))))
    for name in PRESETS:
        wanted, _ = plan(preset=name, init=str(kept) if name == "finetune" else None)
        assert wanted.preset == name
        assert TrainSpec.model_validate_json(wanted.model_dump_json()) == wanted


def test_on_a_gpu_the_preset_is_that_for_a_gpu(plan: Plan) -> None:
    wanted, _ = plan(device="cuda")
    assert (wanted.preset, wanted.device) == ("char-gpu", "cuda")
    assert plan(device="cuda", preset="char-tiny")[0].preset == "char-tiny"


def test_options_may_be_what_was_typed(plan: Plan) -> None:
    wanted, _ = plan(steps="500", learning_rate="3e-4", seed="7", threads="2", batch_size=None)
    assert (wanted.steps, wanted.learning_rate, wanted.seed, wanted.threads) == (500, 3e-4, 7, 2)
    assert wanted.batch_size == 12


def test_the_schedule_follows_the_steps_and_the_learning_rate(plan: Plan) -> None:
    wanted, _ = plan(steps=200, learning_rate=2e-3)
    assert (wanted.decay_steps, wanted.warmup) == (200, 20)
    assert wanted.min_lr == pytest.approx(2e-4)
    longer, _ = plan(steps=9000)
    assert (longer.decay_steps, longer.warmup) == (9000, 100)
    stated, _ = plan(steps=200, decay_steps=150, warmup=3, learning_rate=1e-2, min_lr=0)
    assert (stated.decay_steps, stated.warmup, stated.min_lr) == (150, 3, 0)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"preset": "char-tpu"}, "unknown preset 'char-tpu'", "choose one of: char-cpu, char-gpu"),
        ({"steps": 0}, "--steps 0: Input should be greater than or equal to 1", "--help"),
        ({"steps": "many"}, "--steps 'many': ", "--help"),
        ({"batch_size": -1}, "--batch-size -1: ", "--help"),
        ({"learning_rate": "nan"}, "--learning-rate 'nan': ", "--help"),
        ({"learning_rate": 0}, "--learning-rate 0: ", "--help"),
        ({"dropout": 1.0}, "--dropout 1.0: ", "--help"),
        ({"device": "tpu"}, "--device 'tpu': ", "--help"),
        ({"seed": -1}, "--seed -1: ", "--help"),
        ({"timeout_s": 0}, "--timeout 0: ", "--help"),
        ({"n_embd": 130}, "the width 130 does not divide into 4 heads", "multiple of 4"),
        ({"n_layer": 0}, "a GPT needs layers, heads and a width", "choose at least 1"),
        ({"min_lr": 1}, "rise from 0.002 to min_lr 1", "choose a min_lr of at most 0.002"),
        ({"decay_steps": 50}, "a warm-up of 100 steps is longer", "a warmup of at most 50"),
        ({"preset": "finetune"}, "the preset finetune needs weights", "--init RUN_OR_WEIGHTS"),
        ({"resume": "a", "init": "b"}, "--resume goes on with a run", "leave one of them out"),
        ({"resume": "nowhere"}, "no run 'nowhere'", "invoke results"),
        ({"init": "nowhere"}, "nowhere", ""),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_type(
    plan: Plan, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageFault) as caught:
        plan(**options)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_bad_option_is_refused_before_anything_is_fetched(plan: Plan, server: TextServer) -> None:
    with pytest.raises(UsageFault, match="--steps 0"):
        plan(text=server.url, steps=0)
    assert server.asked == []


def test_a_text_by_address_is_fetched_into_the_cache(
    plan: Plan, server: TextServer, environ: dict[str, str]
) -> None:
    wanted, inputs = plan(text=server.url)
    assert (wanted.text, wanted.text_sha256) == (server.url, sum_of(TEXT))
    assert inputs["text"] == assets.cache_of(environ) / sum_of(TEXT)
    plan(text=f"{server.url}#sha256={sum_of(TEXT)}")
    assert len(server.asked) == 1  # with its sum it is known to be there
    with pytest.raises(UsageFault, match="wrong checksum"):
        plan(text=f"{server.url}#sha256={'0' * 64}")


@pytest.mark.parametrize("named", [None, "tinyshakespeare"])
def test_the_default_text_is_the_pinned_one(
    plan: Plan, server: TextServer, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    assert PINNED.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    table = pins.load()
    stand_in = PINNED.model_copy(update={"url": server.url, "sha256": sum_of(TEXT)})
    changed = table.model_copy(update={"texts": {"tinyshakespeare": stand_in}})
    monkeypatch.setattr(pins, "load", lambda: changed)
    wanted, inputs = plan(text=named)
    assert (wanted.text, wanted.text_sha256) == ("tinyshakespeare", sum_of(TEXT))
    assert inputs["text"].read_text() == TEXT


def test_the_pinned_text_is_taken_from_the_cache_without_a_network(
    plan: Plan, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = assets.cache_of(environ)
    cache.mkdir(parents=True)
    table = pins.load()
    stand_in = PINNED.model_copy(update={"url": "http://127.0.0.1:1/", "sha256": sum_of(TEXT)})
    monkeypatch.setattr(pins, "load", lambda: table.model_copy(update={"texts": {"a": stand_in}}))
    monkeypatch.setattr(assets.PATIENCE.__class__, "run", offline)
    with pytest.raises(UsageFault, match="no network") as caught:
        plan(text=None)
    assert "--text FILE" in str(caught.value.hint)
    (cache / sum_of(TEXT)).write_text(TEXT)
    assert plan(text=None)[1]["text"] == cache / sum_of(TEXT)


def offline(*_: object) -> None:
    from bench.build.fetch.fault import Fault

    raise Fault("no network")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.txt", "there is no text"),
        ("folder", "is a directory"),
        ("empty.txt", "is empty"),
        ("a\0b", "there is no text|cannot read the text"),
        ("x" * 5000, "there is no text|cannot read the text"),
        ("ftp://example.com/a.txt", "not a web address"),
    ],
)
def test_a_text_that_is_not_there_is_refused(
    plan: Plan, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageFault, match=message):
        plan(text=name if "://" in name else str(tmp_path / name))


def test_weights_bring_their_geometry_and_their_block(plan: Plan, tmp_path: Path) -> None:
    kept = saved(tmp_path / "kept", GPTConfig(3, 2, 8, 16, 65))
    wanted, inputs = plan(init=str(kept))
    assert (wanted.preset, wanted.model) == ("finetune", "finetune")
    assert (wanted.n_layer, wanted.n_head, wanted.n_embd, wanted.block_size) == (3, 2, 8, 16)
    assert wanted.learning_rate == PRESETS["finetune"].learning_rate
    assert wanted.init_sha256 == checkpoint.digest(kept)
    assert inputs["init"] == kept
    assert wanted.inputs == ("text", "init")
    assert plan(init=str(kept), block_size=8)[0].block_size == 8
    other, _ = plan(init=str(kept), preset="char-cpu")
    assert (other.learning_rate, other.n_embd, other.block_size) == (2e-3, 8, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 32}, "--block-size 32 is over the 16 positions"),
        ({"n_layer": 4}, r"--layers 4, but the weights of .* have 3"),
        ({"preset": "bigram"}, "the preset bigram is not for the weights of a GPT"),
        ({"block_size": "long"}, "--block-size 'long': "),
    ],
)
def test_options_that_contradict_the_weights_are_refused(
    plan: Plan, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    kept = saved(tmp_path / "kept", GPTConfig(3, 2, 8, 16, 65))
    with pytest.raises(UsageFault, match=message):
        plan(init=str(kept), **options)


def test_a_bert_or_a_bigram_is_no_beginning(plan: Plan, tmp_path: Path) -> None:
    config = {
        "model_type": "bert",
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "hidden_size": 8,
        "intermediate_size": 32,
        "max_position_embeddings": 8,
        "vocab_size": 10,
        "type_vocab_size": 2,
    }
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    (tmp_path / "bert" / "model.safetensors").touch()
    with pytest.raises(UsageFault, match="is a BERT, which is not trained to continue text"):
        plan(init=str(tmp_path / "bert"))
    (tmp_path / "bigram").mkdir()
    bigram.save(bigram.build(5, seed=1), tmp_path / "bigram")
    with pytest.raises(UsageFault, match="bigram"):
        plan(init=str(tmp_path / "bigram"))


def test_weights_of_a_published_geometry_are_called_by_its_name(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GPTConfig(1, 1, 8, 16, 65)
    monkeypatch.setitem(MODELS, "gpt-atom", config)
    assert plan(init=str(saved(tmp_path / "kept", config)))[0].model == "gpt-atom"


@pytest.mark.parametrize("named", ["last", "abcd", "PATH", "CHECKPOINT"])
def test_a_run_is_resumed_by_its_name_or_its_place(plan: Plan, run: Path, named: str) -> None:
    places = {"PATH": str(run), "CHECKPOINT": str(run / "checkpoint")}
    wanted, inputs = plan(resume=places.get(named, named), preset="char-tiny")
    assert inputs["resume"] == run / "checkpoint"
    assert wanted.resume_sha256 == checkpoint.digest(run / "checkpoint")
    assert wanted.inputs == ("text", "resume")
    # Everything is as the run was begun, but where the text lies.
    expected = spec().model_copy(
        update={"resume_sha256": wanted.resume_sha256, "text": "novel.txt"}
    )
    assert wanted == expected
    assert wanted.n_embd == SMALL["n_embd"]


def test_a_run_is_taken_further_without_changing_its_schedule(plan: Plan, run: Path) -> None:
    wanted, _ = plan(resume="last", steps=99)
    assert (wanted.steps, wanted.decay_steps, wanted.warmup) == (99, 12, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8, "seed": 3}, "batch_size was 4, now 8; seed was 0, now 3"),
        ({"preset": "char-cpu"}, "with the preset char-cpu: the run was begun with char-tiny"),
        ({"steps": 3}, "has made 4 steps already; 3 are wanted"),
        ({"steps": 4}, "the run has made all of its 4 steps"),
        ({"learning_rate": "x"}, "--learning-rate 'x': "),
    ],
)
def test_what_a_run_cannot_be_resumed_with_is_refused(
    plan: Plan, run: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageFault) as caught:
        plan(resume="last", **options)
    assert message in caught.value.message


def test_another_text_is_refused_for_a_resumed_run(plan: Plan, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other words")
    with pytest.raises(UsageFault) as caught:
        plan(resume="last", text=str(tmp_path / "other.txt"))
    found = hashlib.sha256(b"other words").hexdigest()
    assert f"text_sha256 was {sum_of(TEXT)}, now {found}" in caught.value.message


def test_a_resumed_runs_text_is_found_by_its_sum(
    plan: Plan, run: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageFault, match="which is not in the cache") as caught:
        plan(resume="last", text=None)
    assert "--text FILE" in str(caught.value.hint)
    path = assets.cache_of(environ) / sum_of(TEXT)
    path.parent.mkdir(parents=True)
    path.write_text(TEXT)
    wanted, inputs = plan(resume="last", text=None)
    assert inputs["text"] == path
    assert wanted.text == "a test's text"


def test_a_resumed_runs_text_is_fetched_again_by_its_pin(
    plan: Plan, run: Path, server: TextServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pins.load()
    stand_in = PINNED.model_copy(update={"url": server.url, "sha256": sum_of(TEXT)})
    monkeypatch.setattr(pins, "load", lambda: table.model_copy(update={"texts": {"a": stand_in}}))
    assert plan(resume="last", text=None)[1]["text"].read_text() == TEXT


def test_a_run_without_a_checkpoint_or_with_weights_alone_cannot_be_resumed(
    plan: Plan, run: Path, tmp_path: Path
) -> None:
    (run / "checkpoint" / "state.json").unlink()
    for named in ("last", str(run)):
        with pytest.raises(UsageFault, match=r"cannot be resumed: it has no state\.json") as caught:
            plan(resume=named)
        assert "--init" in str(caught.value.hint)
    (run / "checkpoint").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageFault, match="has no checkpoint"):
        plan(resume="abcd")
    # `last` is the last run that can be resumed.
    with pytest.raises(UsageFault, match="no run 'last'"):
        plan(resume="last")


def test_a_spec_is_recorded_as_every_record_knows_it() -> None:
    recorded = spec(seed=5, threads=2).recorded()
    assert (recorded.kind, recorded.mode, recorded.backends) == ("train", "train", ("torch-eager",))
    assert (recorded.model, recorded.batch_size, recorded.seq_len) == ("char-tiny", 4, 8)
    assert (recorded.seed, recorded.threads, recorded.device) == (5, 2, "cpu")


def test_a_spec_refuses_what_it_does_not_know() -> None:
    for wrong in ({"optimiser": "lion"}, {"dtype": "float16"}, {"text_sha256": "12"}):
        with pytest.raises(ValidationError):
            TrainSpec.model_validate({**spec().model_dump(), **wrong})
