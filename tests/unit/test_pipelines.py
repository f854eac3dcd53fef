"""What each rung of the ladder makes of a model: the kernels that are in it, and no others."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from bench.job import gpt
from bench.job.compile import gpu
from bench.job.compile.importer import import_module
from bench.job.compile.pipelines import LADDER, pipeline
from bench.job.compile.target import detect_cpu

CONFIG = gpt.GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=16, vocab_size=70)


@functools.cache
def names(rung: str) -> frozenset[str]:
    """The functions of a GPT of one layer after the pipeline."""
    imported = import_module(gpt.build(CONFIG, 1), (gpt.tokens_for(CONFIG, 1, 6, 1),))
    lowered = pipeline(rung).apply(imported.mod, detect_cpu(2))
    return frozenset(var.name_hint for var in lowered.get_global_vars())


def having(rung: str, *parts: str) -> int:
    """How many functions have all of these in their name."""
    return sum(all(part in name for part in parts) for name in names(rung))


def test_fusing_makes_fewer_functions_of_the_same_operators() -> None:
    assert having("none", "fused_") == 0
    assert having("ladder-fused", "fused_") > 3
    assert len(names("ladder-fused")) < len(names("none"))


def test_our_kernels_come_in_before_weights_are_packed() -> None:
    assert having("ladder-dlight", "layer_norm_6x32") == 0
    for rung in ("ladder-kernels", "ladder-packed", "ladder-epilogues", "optimized"):
        assert having(rung, "layer_norm_6x32") == 1, rung
    assert having("ladder-kernels", "linear_") == 0
    assert having("ladder-kernels", "matmul_1x6x32x96") == 1
    assert having("ladder-packed", "linear_6x96x32") == 1
    assert having("ladder-packed", "matmul_1x6x32x96") == 0


def test_epilogues_are_gelu_and_the_sum_and_attention_comes_after_them() -> None:
    # A bias is a part of the product as soon as its weight is packed.
    assert having("ladder-packed", "linear_", "_bias") == 4
    for part in ("_gelu", "_residual"):
        assert having("ladder-packed", "linear_", part) == 0
        assert having("ladder-epilogues", "linear_", part) >= 1
    assert having("ladder-epilogues", "causal_attention") == 0
    assert having("ladder-epilogues", "softmax_12x6") == 1
    assert having("optimized", "causal_attention_1x6x2x16") == 1
    assert having("optimized", "softmax") == having("optimized", "matmul") == 0


@pytest.mark.parametrize(("rung", "stored"), [("bf16", "_bfloat16"), ("int8", "_int8")])
def test_fewer_bits_change_the_products_alone(rung: str, stored: str) -> None:
    assert having(rung, "linear_", stored) == having("optimized", "linear_") > 0
    others = {name for name in names("optimized") if not name.startswith(("linear_", "gather_"))}
    assert others <= names(rung)


def test_each_rung_is_another_list_of_passes() -> None:
    for before, after in itertools.pairwise(LADDER):
        assert before.cpu != after.cpu, after.name


def test_the_rung_of_weights_as_they_lie_has_a_pass() -> None:
    """Without it, that rung of a GPU would be the one before it under another name."""
    assert len(gpu.transposed_products()) == 1


def test_a_softmax_in_a_model_is_the_kernel() -> None:
    class Softmax(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x, -1)

    mod = pipeline("optimized").apply(
        import_module(Softmax(), (torch.zeros(2, 3, 19),)).mod, detect_cpu(2)
    )
    assert "softmax_6x19" in {var.name_hint for var in mod.get_global_vars()}
