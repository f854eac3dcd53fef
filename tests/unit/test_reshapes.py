"""A tensor in another shape is the same memory, but showing it costs a call when a model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.catalog import GPTConfig
from bench.job import gpt
from bench.job.compile import api, build, fuse_attention, importer, rewrite
from bench.job.compile.target import detect_cpu
from bench.job.decoder import programs

HOST = detect_cpu(2)


def bindings(module: torch.nn.Module, *example: torch.Tensor) -> list[Any]:
    """What is bound in ``main`` once kernels are used."""
    mod = fuse_attention.use_attention(importer.import_module(module, example).mod, HOST)
    blocks = rewrite.use_kernels(mod, HOST)["main"].body.blocks
    return [binding.value for block in blocks for binding in block.bindings]


def model_and_example(depth: int, program: str | None) -> tuple[torch.nn.Module, Any]:
    config = GPTConfig(n_layer=depth, n_head=2, n_embd=16, block_size=16, vocab_size=31)
    model = gpt.build(config, 1)
    if program is None:
        return model, (gpt.tokens_for(config, 1, 6, 1),)
    wanted = programs(model, 1, 6, 12)[program]
    return wanted.module, wanted.example


# Of the projection to the heads of an attention and back; the keys and the values that a prefill
# keeps are taken from the projection besides; a step gives those of its token.
@pytest.mark.parametrize(("program", "a_layer"), [(None, 2), ("prefill", 5), ("step", 5)])
def test_a_layer_shows_a_tensor_in_another_shape_for_its_attention_alone(
    program: str | None, a_layer: int
) -> None:
    counts = []
    for depth in (3, 8):
        model, example = model_and_example(depth, program)
        values = bindings(model, *example)
        assert not [value for value in values if isinstance(value, api.relax.Var)]
        counts.append(sum(api.is_call(value, "relax.reshape") for value in values))
    assert counts[1] - counts[0] == 5 * a_layer


class Reshaped(torch.nn.Module):
    """What is given, what is known and what a kernel makes, in shapes on shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        folded = x.reshape(6, 4).reshape(2, 12)  # (4, 6) to (2, 12)
        known = torch.arange(4.0).reshape(2, 2).reshape(4, 1)
        normed = self.norm(folded.reshape(4, 6)).reshape(2, 2, 6)
        return folded.reshape(4, 6), folded + 1, known + x, normed.reshape(3, 8).reshape(24)


def test_shapes_on_shapes_show_the_same_numbers(tmp_path: Path) -> None:
    model = Reshaped().eval()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    compiled = build.compile_module(model, (x,), "optimized", HOST)
    compiled.export_library(tmp_path / "model.so")
    loaded = build.load(tmp_path / "model.so", build.Parameters(compiled.params, "cpu"))
    with torch.no_grad():
        for got, want in zip(loaded.run(loaded.prepare(x.numpy())), model(x), strict=True):
            assert got.shape == tuple(want.shape)
            assert np.abs(got.numpy() - want.numpy()).max() < 1e-6
    shown = [value for value in bindings(model, x) if api.is_call(value, "relax.reshape")]
    assert len(shown) < 5  # of eight; the first of what is given gives that itself
