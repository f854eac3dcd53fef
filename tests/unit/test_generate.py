"""Text continued by a checkpoint: the same as by the plainest loop there is, on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from bench import checkpoint
from bench.catalog import GPTConfig, input_variable
from bench.errors import UsageFault
from bench.generation import GenerateSpec
from bench.job import generate, gpt, weights
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
    ("prompt", "tokens"),
    [
        (None, 12),
        ("abc", 5),  # fits the block
        ("abc", 13),  # fills it
        ("abc", 40),  # slides past it
        ("a" * 16, 3),  # begins full
        ("abcdefghij" * 3, 3),  # begins past it
    ],
)
def test_greedy_text_is_that_of_the_plain_loop(
    spec: GenerateSpec, directory: Path, backend: str, prompt: str | None, tokens: int
) -> None:
    spec = spec.model_copy(update={"backend": backend, "prompt": prompt, "tokens": tokens})
    done = generate.run(spec)
    assert done.text == plain(directory, spec)
    assert done.tokens == tokens == len(done.text)
    assert done.recomputed == max(0, min(tokens, len(prompt or "0") + tokens - 1 - 16))


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
    with pytest.raises(UsageFault, match=r"'z'.* 2\b|position 2") as caught:
        generate.run(spec.model_copy(update={"prompt": "abz"}))
    assert caught.value.hint


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
