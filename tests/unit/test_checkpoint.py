"""config.json and the digest: what a directory of weights says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import checkpoint
from bench.catalog import BertConfig, GPTConfig
from bench.errors import UsageFault

# As published, with the keys that matter here and some that do not.
GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
BERT = {
    "architectures": ["BertForMaskedLM"],
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


def write(directory: Path, raw: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(raw))
    return directory


def fault_of(directory: Path) -> UsageFault:
    with pytest.raises(UsageFault) as caught:
        checkpoint.geometry(directory)
    assert caught.value.hint
    return caught.value


def test_published_configs_give_the_published_geometry(tmp_path: Path) -> None:
    assert checkpoint.geometry(write(tmp_path, GPT2)) == GPTConfig(12, 12, 768)
    assert checkpoint.geometry(write(tmp_path, BERT)) == BertConfig(12, 12, 768)
    assert checkpoint.model_type(tmp_path) == "bert"


def test_what_is_not_stated_is_as_in_transformers(tmp_path: Path) -> None:
    least = {"n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 3, "vocab_size": 4}
    write(tmp_path, least | {"architectures": ["GPT2LMHeadModel"]})
    assert checkpoint.geometry(tmp_path) == GPTConfig(1, 1, 2, 3, 4)
    assert checkpoint.ties_head(tmp_path)
    bert = {key: value for key, value in BERT.items() if key != "type_vocab_size"}
    assert checkpoint.geometry(write(tmp_path, bert)) == BertConfig(12, 12, 768)


@pytest.mark.parametrize("base", [GPT2, BERT])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "12", [], 10**30])
def test_a_size_that_is_none_is_named(tmp_path: Path, base: dict[str, Any], value: Any) -> None:
    for key in ("vocab_size", "n_layer" if base is GPT2 else "num_hidden_layers"):
        message = fault_of(write(tmp_path, base | {key: value})).message
        assert f"{key} is {json.dumps(value)}" in message
        missing = {name: one for name, one in base.items() if name != key}
        assert f"{key} is missing" in fault_of(write(tmp_path, missing)).message


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (GPT2, {"activation_function": "relu"}, ['activation_function is "relu"', "gelu_new"]),
        (GPT2, {"activation_function": "gelu"}, ['activation_function is "gelu"']),
        (GPT2, {"layer_norm_epsilon": 1e-6}, ["layer_norm_epsilon is 1e-06", "1e-05"]),
        (GPT2, {"layer_norm_epsilon": "1e-05"}, ['layer_norm_epsilon is "1e-05"']),
        (GPT2, {"layer_norm_epsilon": True}, ["layer_norm_epsilon is true"]),
        (GPT2, {"n_inner": 1024}, ["n_inner is 1024", "makes it 3072"]),
        (GPT2, {"n_ctx": 512}, ["n_ctx is 512", "n_positions 1024"]),
        (GPT2, {"n_head": 13}, ["n_embd 768", "n_head 13"]),
        (GPT2, {"scale_attn_weights": False}, ["scale_attn_weights is false"]),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, ["inverse_layer_idx is true"]),
        (GPT2, {"add_cross_attention": True}, ["add_cross_attention is true"]),
        (GPT2, {"model_type": "llama"}, ["model_type 'llama'", "gpt2"]),
        (GPT2, {"model_type": "bigram"}, ["model_type 'bigram'"]),
        (BERT, {"hidden_act": "gelu_new"}, ['hidden_act is "gelu_new"']),
        (BERT, {"layer_norm_eps": 1e-5}, ["layer_norm_eps is 1e-05", "1e-12"]),
        (BERT, {"intermediate_size": 768}, ["intermediate_size is 768", "makes it 3072"]),
        (BERT, {"num_attention_heads": 7}, ["hidden_size 768", "num_attention_heads 7"]),
        (BERT, {"position_embedding_type": "relative_key"}, ["relative_key"]),
        (BERT, {"is_decoder": True}, ["is_decoder is true"]),
    ],
)
def test_what_our_models_have_not_is_refused(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any], words: list[str]
) -> None:
    fault = fault_of(write(tmp_path, base | change))
    for word in words:
        assert word in f"{fault.message} {fault.hint}"


@pytest.mark.parametrize("same", [{"n_inner": 3072}, {"activation_function": "gelu_pytorch_tanh"}])
def test_what_says_the_same_otherwise_is_accepted(tmp_path: Path, same: dict[str, Any]) -> None:
    assert checkpoint.geometry(write(tmp_path, GPT2 | same)) == GPTConfig(12, 12, 768)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"n_layer": ' + b"9" * 5000 + b"}", "is not JSON"),  # more digits than Python reads
        (b"[1]", "is not a JSON object"),
        (b"{}", "model_type is missing"),
        (b'{"model_type": 5}', "model_type is missing"),
        (b'{"architectures": [["GPT2"]]}', "model_type is missing"),
        (b" " * (65 * 2**20), "is over 64 MiB"),
    ],
)
def test_a_damaged_config_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert words in fault_of(tmp_path).message


def test_a_missing_config_or_directory_is_named(tmp_path: Path) -> None:
    assert "config.json is missing" in fault_of(tmp_path).message
    assert "is not a directory" in fault_of(tmp_path / "nothing").message
    (tmp_path / "file").touch()
    assert "is not a directory" in fault_of(tmp_path / "file").message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "has no model.safetensors"),
        (["pytorch_model.bin"], "only 'pytorch_model.bin': a pickle"),
        (["a.ckpt", "tf_model.h5"], "only 'a.ckpt': a pickle"),
        (["tf_model.h5"], "has no model.safetensors"),
    ],
)
def test_weights_in_another_format_are_refused(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UsageFault) as caught:
        checkpoint.weight_files(tmp_path)
    assert words in caught.value.message
    assert caught.value.hint


def test_the_digest_is_of_names_and_contents_and_not_of_the_place(tmp_path: Path) -> None:
    def made(name: str, weights: bytes = b"weights", config: Any = GPT2) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(weights)
        return write(directory, config)

    first = checkpoint.digest(made("a"))
    assert len(first) == 64
    again = made("b")
    (again / "README.md").write_text("no part of it")
    assert checkpoint.digest(again) == first
    assert checkpoint.digest(made("c", weights=b"Weights")) != first
    assert checkpoint.digest(made("d", config=GPT2 | {"n_head": 6})) != first


def test_the_digest_tells_shards_apart(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    write(tmp_path, GPT2)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "1.safetensors").write_bytes(b"one")
    (tmp_path / "2.safetensors").write_bytes(b"two")
    names = [path.name for path in checkpoint.weight_files(tmp_path)]
    assert names == ["1.safetensors", "2.safetensors"]
    before = checkpoint.digest(tmp_path)
    (tmp_path / "1.safetensors").write_bytes(b"two")
    (tmp_path / "2.safetensors").write_bytes(b"one")
    assert checkpoint.digest(tmp_path) != before


def test_a_digest_needs_all_files(tmp_path: Path) -> None:
    write(tmp_path, GPT2)
    with pytest.raises(UsageFault, match=r"has no model\.safetensors"):
        checkpoint.digest(tmp_path)
