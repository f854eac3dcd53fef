"""BERT: against transformers, through the compiler, and what each weight is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from bench.catalog import MODELS, BertConfig
from bench.job import bert
from bench.job.compile import build, target

TINY = BertConfig(n_layer=2, n_head=3, n_embd=48, block_size=20, vocab_size=101)
ODD = [
    TINY,
    BertConfig(n_layer=1, n_head=1, n_embd=7, block_size=13, vocab_size=31),
    BertConfig(n_layer=3, n_head=5, n_embd=35, block_size=9, vocab_size=67, type_vocab_size=4),
    BertConfig(n_layer=5, n_head=2, n_embd=66, block_size=33, vocab_size=210, type_vocab_size=1),
]
OF_A_LAYER = {
    "attn.c_proj": "attention.output.dense",
    "ln_1": "attention.output.LayerNorm",
    "mlp.c_fc": "intermediate.dense",
    "mlp.c_proj": "output.dense",
    "ln_2": "output.LayerNorm",
}
OF_THE_REST = {
    "ln_e": "bert.embeddings.LayerNorm",
    "head.c_fc": "cls.predictions.transform.dense",
    "head.ln": "cls.predictions.transform.LayerNorm",
}


def theirs(config: BertConfig) -> transformers.BertForMaskedLM:
    """What transformers builds for this geometry, its attention written out."""
    geometry: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "intermediate_size": 4 * config.n_embd,
        "max_position_embeddings": config.block_size,
        "type_vocab_size": config.type_vocab_size,
        "attn_implementation": "eager",
    }
    model = transformers.BertForMaskedLM(transformers.BertConfig(**geometry))
    nn.Module.eval(model)  # it drops values out otherwise
    return model


def drawn(config: BertConfig, seed: int, scale: float = 1.0) -> transformers.BertForMaskedLM:
    """The same with random weights, wide enough apart that every part of it shows.

    ``scale`` is that of the embeddings: small ones show what a norm adds to the variance.
    """
    model = theirs(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            norm = "LayerNorm" in name and name.endswith("weight")
            spread = 0.5 if norm or name.endswith("bias") else 1.5 / config.n_embd**0.5
            if "embeddings.weight" in name:
                spread = scale
            tensor.normal_(1.0 if norm else 0.0, spread, generator=generator)
    return model


def ours(config: BertConfig, model: transformers.BertForMaskedLM) -> bert.Bert:
    """Our BERT with their weights; every weight of theirs is used."""
    left = dict(model.named_parameters())
    state: dict[str, torch.Tensor] = {
        "wte.weight": left.pop("bert.embeddings.word_embeddings.weight"),
        "wpe.weight": left.pop("bert.embeddings.position_embeddings.weight"),
        "wtt.weight": left.pop("bert.embeddings.token_type_embeddings.weight"),
        "bias": left.pop("cls.predictions.bias"),
    }
    for kind in ("weight", "bias"):
        for mine, its in OF_THE_REST.items():
            state[f"{mine}.{kind}"] = left.pop(f"{its}.{kind}")
        for n in range(config.n_layer):
            layer = f"bert.encoder.layer.{n}"
            for mine, its in OF_A_LAYER.items():
                state[f"h.{n}.{mine}.{kind}"] = left.pop(f"{layer}.{its}.{kind}")
            state[f"h.{n}.attn.c_attn.{kind}"] = torch.cat(
                [left.pop(f"{layer}.attention.self.{x}.{kind}") for x in ("query", "key", "value")]
            )
    assert not left
    made = bert.Bert(config).eval()
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("given", [True, False], ids=["types", "no-types"])
@pytest.mark.parametrize("config", ODD, ids=lambda c: f"{c.n_layer}x{c.n_head}x{c.n_embd}")
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_logits_are_those_of_transformers(config: BertConfig, given: bool, scale: float) -> None:
    reference = drawn(config, seed=config.n_embd, scale=scale)
    model = ours(config, reference)
    generator = torch.Generator().manual_seed(5)
    for T in (1, 4, config.block_size):
        tokens = torch.randint(config.vocab_size, (3, T), generator=generator)
        types = torch.randint(config.type_vocab_size, (3, T), generator=generator)
        with torch.no_grad():
            want = reference(tokens, token_type_ids=types if given else None).logits
            got = model(tokens, types) if given else model(tokens)
        assert got.shape == want.shape == (3, T, config.vocab_size)
        assert float((got - want).abs().max()) < 1e-4
        assert torch.equal(got.argmax(-1), want.argmax(-1))


def test_bert_base_has_the_published_geometry_and_parameter_count() -> None:
    config = MODELS["bert-base"]
    assert isinstance(config, BertConfig)
    assert (config.n_layer, config.n_head, config.n_embd) == (12, 12, 768)
    assert (config.block_size, config.vocab_size, config.type_vocab_size) == (512, 30522, 2)
    with torch.device("meta"):
        # transformers' default geometry is bert-base-uncased, whatever ours says.
        reference = transformers.BertForMaskedLM(transformers.BertConfig())
    assert sum(tensor.numel() for tensor in reference.parameters()) == 109_514_298
    assert bert.parameter_count(config) == 109_514_298


def test_without_types_all_types_are_0() -> None:
    model = bert.build(TINY, 0)
    tokens = torch.arange(14).view(2, 7)
    torch.testing.assert_close(model(tokens), model(tokens, torch.zeros_like(tokens)))
    assert not torch.allclose(model(tokens), model(tokens, torch.ones_like(tokens)), atol=1e-4)


def test_every_position_sees_every_position() -> None:
    model = bert.build(TINY, 0)
    tokens = torch.arange(8)[None]
    for changed in (0, 3, 7):
        other = tokens.clone()
        other[0, changed] = 50
        moved = (model(tokens) - model(other)).abs().amax(-1)  # (1, T)
        assert bool((moved > 0).all()), f"a position does not see position {changed}"


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = bert.build(TINY, 7), bert.build(TINY, 7), bert.build(TINY, 8)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, other.state_dict()[name]), f"{name} ignores the seed"


def test_no_norm_or_bias_is_left_at_its_neutral_value() -> None:
    # A backend that drops a bias or a norm's weight must not pass the parity gate.
    model = bert.build(TINY, 0)
    for name, tensor in model.named_parameters():
        assert float(tensor.std()) > 0.01, name
    norms = [name for name, of in model.named_modules() if isinstance(of, nn.LayerNorm)]
    assert len(norms) == 2 * TINY.n_layer + 2
    for name in norms:
        assert 0.9 < float(model.get_parameter(f"{name}.weight").mean()) < 1.1
        assert abs(float(model.get_parameter(f"{name}.bias").mean())) < 0.1


def test_build_gives_the_dtype_asked_for() -> None:
    model = bert.build(TINY, 0, torch.bfloat16)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert model(torch.arange(5)[None]).dtype == torch.bfloat16


def compiled(
    model: bert.Bert, example: tuple[torch.Tensor, ...], pipeline: str, tmp_path: Path
) -> build.Loaded:
    made = build.compile_module(model, example, pipeline, target.detect_cpu())
    made.export_library(tmp_path / "model.so")
    return build.load(tmp_path / "model.so", build.Parameters(made.params, "cpu"))


@pytest.mark.parametrize(
    ("pipeline", "config", "batch_size", "seq_len", "given"),
    [
        ("none", ODD[2], 2, 9, False),
        ("default", ODD[2], 2, 9, False),
        ("optimized", TINY, 1, 17, False),
        ("optimized", ODD[2], 3, 5, False),
        ("optimized", ODD[1], 1, 1, False),
        ("optimized", ODD[2], 2, 6, True),
    ],
)
def test_compiled_logits_agree_with_float64(
    pipeline: str, config: BertConfig, batch_size: int, seq_len: int, given: bool, tmp_path: Path
) -> None:
    model = ours(config, drawn(config, seed=2)).requires_grad_(False)
    wide = bert.Bert(config).double()
    wide.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(3)
    shape = (batch_size, seq_len)
    # Two tensors: one given twice would be one input to torch.export.
    example = tuple(torch.zeros(shape, dtype=torch.int64) for _ in range(1 + given))
    loaded = compiled(model, example, pipeline, tmp_path)
    for _ in range(3):
        inputs = [torch.randint(config.vocab_size, shape, generator=generator)]
        if given:
            inputs.append(torch.randint(config.type_vocab_size, shape, generator=generator))
        with torch.no_grad():
            want = wide(*inputs).numpy()
        got = loaded(*(each.numpy() for each in inputs))
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()
        assert (got.argmax(-1) == want.argmax(-1)).all()
