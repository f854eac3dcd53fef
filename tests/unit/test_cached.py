"""Decoding with a KV cache gives what the whole model gives, at every position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.catalog import GPTConfig
from bench.job import decoder, gpt
from bench.job.backends.torch_eager import TorchReady
from bench.job.backends.tvm import TvmReady
from bench.job.compile import build, target
from bench.job.decoder import Decoder


def eager(programs: Any) -> TorchReady:
    return TorchReady({name: program.module for name, program in programs.items()}, "cpu")


@st.composite
def cases(draw: st.DrawFn) -> tuple[GPTConfig, int, int, int, int]:
    heads = draw(st.integers(1, 3))
    block = draw(st.integers(2, 12))
    config = GPTConfig(
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_embd=heads * draw(st.integers(1, 5)),
        block_size=block,
        vocab_size=draw(st.integers(2, 17)),
    )
    prompt = draw(st.integers(1, block))
    padded = draw(st.integers(prompt, block))
    return config, draw(st.integers(1, 3)), prompt, padded, draw(st.integers(0, 2**20))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_position_has_the_logits_of_the_full_forward_pass(
    case: tuple[GPTConfig, int, int, int, int],
) -> None:
    config, batch, prompt, padded, seed = case
    model = gpt.build(config, seed, torch.float64)
    tokens = gpt.tokens_for(config, batch, config.block_size, seed)
    with torch.no_grad():
        want = model(tokens)
    ready = eager(decoder.programs(model, batch, padded, config.block_size))
    machine = Decoder(ready, config, batch, config.block_size, torch.float64)
    filled = torch.zeros(batch, padded, dtype=torch.int64)
    filled[:, :prompt] = tokens[:, :prompt]
    got = [machine.prefill(filled, prompt)]
    for at in range(prompt, config.block_size):
        got.append(machine.step(tokens[:, at : at + 1]))
    torch.testing.assert_close(torch.stack(got, 1), want[:, prompt - 1 :], rtol=0, atol=1e-10)
    assert machine.position == config.block_size


def test_what_was_rewound_is_not_seen_again() -> None:
    config = GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=10, vocab_size=11)
    model = gpt.build(config, 1)
    machine = Decoder(eager(decoder.programs(model, 1, 4, 10)), config, 1, 10, torch.float32)
    prompt = torch.tensor([[1, 2, 3, 4]])
    machine.prefill(prompt)
    want = machine.step(torch.tensor([[5]]))
    for token in (9, 8, 7):
        machine.step(torch.tensor([[token]]))
    machine.rewind(4)
    torch.testing.assert_close(machine.step(torch.tensor([[5]])), want)


@pytest.mark.parametrize(
    ("pipeline", "batch"), [("default", 1), ("optimized", 1), ("optimized", 3)]
)
def test_tvm_decodes_as_the_full_forward_pass(pipeline: str, batch: int, tmp_path: Any) -> None:
    config = GPTConfig(n_layer=2, n_head=3, n_embd=48, block_size=23, vocab_size=65)
    model = gpt.build(config, 2)
    tokens = gpt.tokens_for(config, batch, config.block_size, 3)
    with torch.no_grad():
        want = model(tokens)
    programs = decoder.programs(model, batch, 5, config.block_size)
    loaded = {}
    for name, program in programs.items():
        made = build.compile_module(program.module, program.example, pipeline, target.detect_cpu())
        made.export_library(tmp_path / f"{name}.so")
        loaded[name] = build.load(tmp_path / f"{name}.so", build.Parameters(made.params, "cpu"))
    ready = TvmReady(loaded)
    machine = Decoder(ready, config, batch, config.block_size, torch.float32)
    got = [ready.view(machine.prefill(tokens[:, :5])).clone()]
    for at in range(5, config.block_size):
        got.append(ready.view(machine.step(tokens[:, at : at + 1])).clone())
    torch.testing.assert_close(torch.stack(got, 1), want[:, 4:], rtol=0, atol=2e-5)
