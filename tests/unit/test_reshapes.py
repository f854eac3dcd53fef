"""A tensor in another shape is the same memory, but showing it costs a call when a model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.job.compile import api, fuse_attention, importer, rewrite
from tests.unit.test_compile import run
from tests.unit.test_depth import HOST, rewritten


def values(mod: Any) -> list[Any]:
    """What is bound in ``main``."""
    return [binding.value for block in mod["main"].body.blocks for binding in block.bindings]


# Of the projection to the heads of an attention and back; the keys and the values that a prefill
# keeps are taken from the projection besides; a step gives those of its token.
@pytest.mark.parametrize(("program", "a_layer"), [(None, 2), ("prefill", 5), ("step", 5)])
def test_a_layer_shows_a_tensor_in_another_shape_for_its_attention_alone(
    program: str | None, a_layer: int
) -> None:
    counts = []
    for depth in (3, 8):
        bound = values(rewritten(depth, program))
        assert not [value for value in bound if isinstance(value, api.relax.Var)]
        counts.append(sum(api.is_call(value, "relax.reshape") for value in bound))
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
    loaded = run(model, x, "optimized", HOST, tmp_path)
    with torch.no_grad():
        for got, want in zip(loaded.run(loaded.prepare(x.numpy())), model(x), strict=True):
            assert got.shape == tuple(want.shape)
            assert np.abs(got.numpy() - want.numpy()).max() < 1e-6
    mod = fuse_attention.use_attention(importer.import_module(model, (x,)).mod, HOST)
    bound = values(rewrite.use_kernels(mod, HOST))
    shown = [value for value in bound if api.is_call(value, "relax.reshape")]
    assert len(shown) < 5  # of eight; the first of what is given gives that itself
