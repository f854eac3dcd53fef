"""Checkpoints that transformers wrote, in our models: the same logits; and ours in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from transformers import AutoModelForCausalLM

from bench import checkpoint
from bench.catalog import BertConfig, GPTConfig
from bench.errors import UsageFault
from bench.job import gpt, weights
from tests.unit import checkpoints
from tests.unit.checkpoints import ODD, SMALL, Tensors

TOLERANCE = 1e-4  # absolute, in logits; float32 against float32


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.dtype == torch.float32
    assert theirs.std() > 0.1, "logits this close to each other would hide a fault"
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0.0)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small GPT-2 on disk."""
    return checkpoints.saved(checkpoints.gpt2(*SMALL), tmp_path / "gpt2")


@pytest.fixture
def small_bert(tmp_path: Path) -> Path:
    return checkpoints.saved(checkpoints.bert(*SMALL), tmp_path / "bert")


@pytest.mark.parametrize("geometry", ODD)
def test_a_gpt2_gives_the_logits_that_transformers_gives(
    tmp_path: Path, geometry: tuple[int, ...]
) -> None:
    theirs = checkpoints.gpt2(*geometry)
    ours = weights.load_gpt(checkpoints.saved(theirs, tmp_path))
    ids = checkpoints.tokens(theirs)
    assert ours.config == GPTConfig(*geometry)
    assert_same(ours(ids), checkpoints.logits(theirs, ids))
    assert_same(ours(ids[:1, :1]), checkpoints.logits(theirs, ids[:1, :1]))


@pytest.mark.parametrize("geometry", ODD)
def test_a_bert_gives_the_logits_that_transformers_gives(
    tmp_path: Path, geometry: tuple[int, ...]
) -> None:
    theirs = checkpoints.bert(*geometry)
    ours = weights.load_bert(checkpoints.saved(theirs, tmp_path))
    ids = checkpoints.tokens(theirs)
    types = ids % 2
    assert ours.config == BertConfig(*geometry)
    assert_same(ours(ids), checkpoints.logits(theirs, ids))
    with torch.no_grad():
        typed = theirs(ids, token_type_ids=types).logits
    assert_same(ours(ids, types), typed)


def test_what_is_loaded_is_ready_for_inference(small: Path) -> None:
    model = weights.load_gpt(small)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_shards_give_the_same_model(tmp_path: Path, small: Path) -> None:
    theirs = checkpoints.gpt2(*SMALL)
    sharded = checkpoints.saved(theirs, tmp_path / "sharded", max_shard_size="10KB")
    assert len(checkpoint.weight_files(sharded)) > 2
    whole, parts = weights.load_gpt(small), weights.load_gpt(sharded)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    """To the very values that transformers computes with when it is told to use float32."""
    narrow: Any = checkpoints.gpt2(*SMALL)
    narrow.to(dtype)
    ours = weights.load_gpt(checkpoints.saved(narrow, tmp_path))
    wide = narrow.float()
    ids = checkpoints.tokens(wide)
    assert_same(ours(ids), checkpoints.logits(wide, ids))


def test_old_names_and_mask_buffers_are_understood(small: Path) -> None:
    new = weights.load_gpt(small)

    def as_first_published(tensors: Tensors) -> Tensors:
        old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        for layer in range(SMALL[0]):
            old[f"h.{layer}.attn.bias"] = torch.ones(9, 9).tril().view(1, 1, 9, 9)
            old[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return old

    checkpoints.edit_tensors(small, as_first_published)
    old = weights.load_gpt(small)
    for name, tensor in new.state_dict().items():
        assert torch.equal(old.state_dict()[name], tensor), name


def test_mask_buffers_may_be_infinite_and_of_any_type(small: Path) -> None:
    def with_buffers(tensors: Tensors) -> Tensors:
        buffers = {"transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9, dtype=torch.bool)}
        buffers["transformer.h.0.attn.masked_bias"] = torch.tensor(-torch.inf)
        return tensors | buffers

    checkpoints.edit_tensors(small, with_buffers)
    weights.load_gpt(small)


def test_a_head_that_equals_the_embedding_is_accepted_and_another_is_not(small: Path) -> None:
    def with_head(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}

    def other_head(tensors: Tensors) -> Tensors:
        tensors["lm_head.weight"][3, 2] += 1e-3
        return tensors

    checkpoints.edit_tensors(small, with_head)
    weights.load_gpt(small)
    checkpoints.edit_tensors(small, other_head)
    with pytest.raises(UsageFault, match=r"'lm_head\.weight' differs from 'transformer\.wte"):
        weights.load_gpt(small)


def test_a_head_that_is_said_to_be_apart_must_be_there(small: Path) -> None:
    checkpoints.edit_config(small, tie_word_embeddings=False)
    with pytest.raises(UsageFault, match=r"tie_word_embeddings is false.*'lm_head\.weight'"):
        weights.load_gpt(small)


def test_names_of_the_first_berts_are_understood(small_bert: Path) -> None:
    new = weights.load_bert(small_bert)

    def as_first_published(tensors: Tensors) -> Tensors:
        old = {}
        for name, tensor in tensors.items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            old[name.removeprefix("bert.")] = tensor
        decoder = tensors["bert.embeddings.word_embeddings.weight"].clone()
        old["cls.predictions.decoder.weight"] = decoder
        old["pooler.dense.weight"] = torch.zeros(15, 15)
        old["cls.seq_relationship.bias"] = torch.zeros(2)
        old["embeddings.position_ids"] = torch.arange(9)[None]
        return old

    checkpoints.edit_tensors(small_bert, as_first_published)
    old = weights.load_bert(small_bert)
    for name, tensor in new.state_dict().items():
        assert torch.equal(old.state_dict()[name], tensor), name


def test_load_takes_the_kind_from_the_config(small: Path, small_bert: Path) -> None:
    assert isinstance(weights.load(small), gpt.GPT)
    assert not isinstance(weights.load(small_bert), gpt.GPT)
    with pytest.raises(UsageFault, match="holds a GPT, not a BERT"):
        weights.load_bert(small)
    with pytest.raises(UsageFault, match="holds a BERT, not a GPT"):
        weights.load_gpt(small_bert)


@pytest.mark.parametrize("geometry", ODD)
def test_transformers_opens_what_we_save(tmp_path: Path, geometry: tuple[int, ...]) -> None:
    ours = gpt.build(GPTConfig(*geometry), seed=1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(15)  # GPT-2's own deviation of 0.02 leaves logits too close
    weights.save_gpt(ours, tmp_path)
    opened: Any = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    theirs, told = opened
    assert not told["missing_keys"] and not told["unexpected_keys"]
    ids = checkpoints.tokens(theirs)
    assert_same(ours(ids), checkpoints.logits(theirs.eval(), ids))


def test_saving_and_loading_changes_no_bit(tmp_path: Path) -> None:
    model = gpt.build(GPTConfig(2, 3, 15, block_size=9, vocab_size=101), seed=4)
    weights.save_gpt(model, tmp_path / "a")
    loaded = weights.load_gpt(tmp_path / "a")
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    weights.save_gpt(loaded, tmp_path / "b")
    assert checkpoint.digest(tmp_path / "a") == checkpoint.digest(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_failed_save_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gpt.build(GPTConfig(1, 1, 4, block_size=2, vocab_size=5), seed=0)
    weights.save_gpt(model, tmp_path)
    before = checkpoint.digest(tmp_path)

    def full(_content: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a fi")
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        weights.save_gpt(model, tmp_path)
    assert checkpoint.digest(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_our_config_speaks_of_the_same_geometry(tmp_path: Path) -> None:
    for geometry in (
        GPTConfig(2, 3, 15, block_size=9, vocab_size=101),
        GPTConfig(1, 2, 8),
        BertConfig(2, 3, 15, block_size=9, vocab_size=101, type_vocab_size=3),
    ):
        text = json.dumps(checkpoint.config_of(geometry))
        (tmp_path / "config.json").write_text(text)
        assert checkpoint.geometry(tmp_path) == geometry
