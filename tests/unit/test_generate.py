"""Text continued by a checkpoint: the same as by the plainest loop there is, on every backend."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from bench import checkpoint
from bench.catalog import GPTConfig, input_variable
from bench.errors import JobFailed, UsageFault
from bench.generation import EvaluateSpec, GenerateSpec
from bench.job import evaluate, generate, gpt, weights
from bench.job.text import CharTokenizer
from bench.jobs import TEXT_LINE
from bench.record import Weights

ALPHABET = "\n abcdefghijklm"
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=len(ALPHABET))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = gpt.build(CONFIG, 5)
    with torch.no_grad():  # far from even odds, so that greedy text does not hang on rounding
        for parameter in model.parameters():
            parameter.mul_(8)
    weights.save_gpt(model, folder)
    CharTokenizer.from_text(ALPHABET).save(folder)
    return folder


@pytest.fixture
def spec(directory: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateSpec:
    monkeypatch.setenv(input_variable("weights"), str(directory))
    return GenerateSpec(
        model="custom",
        weights=Weights.of("here", checkpoint.digest(directory), CONFIG),
        tokens=12,
        temperature=0,
    )


def plain(directory: Path, spec: GenerateSpec) -> str:
    """nanoGPT's way: the whole window for every token."""
    model, words = weights.load_gpt(directory), CharTokenizer.load(directory)
    ids = words.encode(spec.prompt) if spec.prompt else [0]
    begin = len(ids)
    sampler = torch.Generator().manual_seed(spec.seed)
    for _ in range(spec.tokens):
        logits = model(torch.tensor([ids[-CONFIG.block_size :]]))[0, -1]
        ids.append(generate.choose(logits, spec.temperature, spec.top_k, sampler))
    return words.decode(ids[begin:])


@pytest.mark.parametrize("backend", ["torch-eager", "tvm-optimized"])
@pytest.mark.parametrize(
    ("prompt", "tokens", "recomputed"),
    [
        (None, 12, 0),
        ("abc", 5, 0),  # fits the block
        ("abc", 13, 0),  # fills it
        ("abc", 14, 0),  # the last token is not looked at
        ("abc", 15, 1),
        ("abc", 40, 26),  # slides past it
        ("a" * 16, 3, 2),  # begins full
        ("abcdefghij" * 3, 3, 3),  # begins past it
    ],
)
def test_greedy_text_is_that_of_the_plain_loop(
    spec: GenerateSpec,
    directory: Path,
    backend: str,
    prompt: str | None,
    tokens: int,
    recomputed: int,
) -> None:
    spec = spec.model_copy(update={"backend": backend, "prompt": prompt, "tokens": tokens})
    done = generate.run(spec)
    assert done.text == plain(directory, spec)
    assert done.tokens == tokens == len(done.text)
    assert done.recomputed == recomputed


@pytest.mark.parametrize("update", [{}, {"top_k": 3}, {"temperature": 0.7}])
def test_the_same_seed_gives_the_same_text(
    spec: GenerateSpec, directory: Path, update: dict[str, Any]
) -> None:
    drawn = spec.model_copy(update={"temperature": 1.0, "tokens": 30, "seed": 7, **update})
    first = generate.run(drawn).text
    assert first == generate.run(drawn).text == plain(directory, drawn)
    assert first != generate.run(drawn.model_copy(update={"seed": 8})).text


def test_the_text_streams(spec: GenerateSpec, capsys: pytest.CaptureFixture[str]) -> None:
    text = generate.run(spec).text
    lines = capsys.readouterr().out.splitlines()
    pieces = [json.loads(x.removeprefix(TEXT_LINE)) for x in lines if x.startswith(TEXT_LINE)]
    assert "".join(pieces) == text and len(pieces) == spec.tokens


def test_a_character_may_take_several_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    class Bytes:
        vocab_size = 256

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

        def decode(self, ids: Any) -> str:
            return bytes(ids).decode(errors="replace")

    stream = generate.Stream(Bytes())
    for byte in "né€😀".encode() + b"\xff":
        stream.add(byte)
    assert stream.end() == "né€😀\N{REPLACEMENT CHARACTER}"
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(x.removeprefix(TEXT_LINE)) for x in lines][:4] == ["n", "é", "€", "😀"]


def test_a_character_that_the_model_does_not_know_is_named(spec: GenerateSpec) -> None:
    with pytest.raises(UsageFault) as caught:
        generate.run(spec.model_copy(update={"prompt": "abz"}))
    assert "'z' (U+007A)" in caught.value.message
    assert "at position 2 " in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("length", "noted"), [(16, False), (17, True)])
def test_a_prompt_longer_than_the_block_is_noted(
    spec: GenerateSpec, capsys: pytest.CaptureFixture[str], length: int, noted: bool
) -> None:
    generate.run(spec.model_copy(update={"prompt": "a" * length, "tokens": 1}))
    lines = capsys.readouterr().out.splitlines()
    note = "note: the prompt has 17 tokens, the block 16: the model sees its last 16 only"
    assert [line for line in lines if line.startswith("note: ")] == [note] * noted


@pytest.fixture
def rounded_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateSpec:
    """A model with 50 more places than the tokenizer has tokens, and likelier ones."""
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=len(ALPHABET) + 50)
    model = gpt.build(config, 5)
    with torch.no_grad():
        model.wte.weight[len(ALPHABET) :] *= 20
    weights.save_gpt(model, tmp_path)
    CharTokenizer.from_text(ALPHABET).save(tmp_path)
    largest = model(torch.tensor([[0]]))[0, -1].argmax()
    assert largest >= len(ALPHABET)  # else the test would say nothing
    monkeypatch.setenv(input_variable("weights"), str(tmp_path))
    known = Weights.of("here", checkpoint.digest(tmp_path), config)
    return GenerateSpec(model="custom", weights=known, tokens=40)


@pytest.mark.parametrize("update", [{}, {"temperature": 0}, {"top_k": 2}, {"temperature": 30.0}])
def test_a_place_beyond_the_tokenizer_is_never_drawn(
    rounded_up: GenerateSpec, update: dict[str, Any]
) -> None:
    text = generate.run(rounded_up.model_copy(update=update)).text
    assert len(text) == 40 and set(text) <= set(ALPHABET)


def test_weights_that_changed_are_refused(spec: GenerateSpec) -> None:
    other = spec.weights.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(UsageFault, match="changed"):
        generate.run(spec.model_copy(update={"weights": other}))


def test_only_the_largest_are_drawn_from() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, -1.0])
    draw = torch.Generator().manual_seed(0)
    seen = {generate.choose(logits, 1.0, 2, draw) for _ in range(200)}
    assert seen == {1, 2}
    assert {generate.choose(logits, 1.0, None, draw) for _ in range(500)} == {0, 1, 2, 3}
    assert generate.choose(logits, 1.0, 1, draw) == generate.choose(logits, 0, None, draw) == 1


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-300, 1e-30])
@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_a_tiny_temperature_takes_the_largest(temperature: float, top_k: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    for largest in (3e38, 3.0, -3.0, 0.0):
        logits = torch.tensor([largest - 1 - abs(largest), largest, -3e38, -3.2e38])
        assert {generate.choose(logits, temperature, top_k, draw) for _ in range(20)} == {1}


def test_a_tiny_temperature_leaves_a_tie_to_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.tensor([2.0, 1.0, 2.0])
    assert {generate.choose(logits, 1e-320, None, draw) for _ in range(50)} == {0, 2}


def test_a_huge_temperature_draws_evenly() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.tensor([3e38, -3e38, 0.0])
    assert {generate.choose(logits, 1.7e308, None, draw) for _ in range(100)} == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0, 1e-320, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_a_clear_failure(temperature: float, wrong: float) -> None:
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(JobFailed, match="the logits are not finite") as caught:
        generate.choose(torch.tensor([0.0, wrong, 1.0]), temperature, None, draw)
    assert "invoke bench --weights" in str(caught.value.hint)


@pytest.fixture
def too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Weights that are finite, and the logits are not."""
    model = gpt.build(CONFIG, 5)
    with torch.no_grad():
        model.ln_f.weight.fill_(3e38)
        model.wte.weight.fill_(3e38)
    weights.save_gpt(model, tmp_path)
    CharTokenizer.from_text(ALPHABET).save(tmp_path)
    monkeypatch.setenv(input_variable("weights"), str(tmp_path))
    return Weights.of("here", checkpoint.digest(tmp_path), CONFIG)


def test_weights_too_large_for_float32_generate_nothing(too_large: Weights) -> None:
    with pytest.raises(JobFailed, match="the logits are not finite"):
        generate.run(GenerateSpec(model="custom", weights=too_large, tokens=3))


def test_weights_too_large_for_float32_have_no_perplexity(
    too_large: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abc de\n" * 40)
    monkeypatch.setenv(input_variable("text"), str(text))
    sha256 = hashlib.sha256(text.read_bytes()).hexdigest()
    spec = EvaluateSpec(model="custom", weights=too_large, text_sha256=sha256)
    with pytest.raises(JobFailed, match=r"the loss is nan .* no finite perplexity") as caught:
        evaluate.run("torch-eager", spec)
    assert caught.value.hint


@pytest.mark.parametrize(
    "bad",
    [{"tokens": 0}, {"temperature": -1}, {"top_k": 0}, {"backend": "tvm"}, {"dtype": "int8"}],
)
def test_what_cannot_be_is_refused(spec: GenerateSpec, bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerateSpec.model_validate({**spec.model_dump(), **bad})


def test_bert_continues_nothing(spec: GenerateSpec) -> None:
    bert = spec.weights.model_copy(
        update={"geometry": {**spec.weights.geometry, "type_vocab_size": 2}}
    )
    with pytest.raises(ValidationError, match="no GPT"):
        GenerateSpec.model_validate({**spec.model_dump(), "weights": bert.model_dump()})
