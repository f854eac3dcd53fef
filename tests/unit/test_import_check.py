"""What TVM's importer gets wrong is written otherwise or refused by name, before compiling.

Every operator that an author of a GPT is likely to write is compiled for real and compared with
PyTorch, over several calls: a wrong import gives other garbage each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from bench.errors import UsageFault
from bench.job.compile import api, build, check, importer, repairs, target

X = torch.linspace(-2.0, 3.0, 80).reshape(2, 5, 8).sin() * 2
Q = torch.linspace(-1.0, 1.0, 144).reshape(2, 3, 6, 4).cos()
INTEGERS = torch.tensor([[0, 3, 1, 4, 2], [4, 0, 2, 2, 1]])
LOWER = torch.ones(6, 6).tril().bool()
ANGLES = torch.outer(torch.arange(6.0), torch.tensor([1.0, 0.1]))

Operation = Callable[..., Any]


def whole(x: torch.Tensor) -> torch.Tensor:
    return x.round().half()


def long(x: torch.Tensor) -> torch.Tensor:
    """400 times as long, mostly positive: its sums are above 2048."""
    return whole(x + 1).repeat(*[1] * (x.dim() - 1), 400)


class Model(nn.Module):
    def __init__(self, operation: Operation, part: nn.Module | None = None) -> None:
        super().__init__()
        self.operation = operation
        self.part = part
        self.register_buffer("mask", LOWER.clone())
        self.register_buffer("cos", torch.cat([ANGLES, ANGLES], dim=-1).cos())
        self.register_buffer("places", torch.tensor([1, -1]))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.operation(self, *inputs)


def compiled(model: nn.Module, example: tuple[torch.Tensor, ...]) -> build.Loaded:
    done = build.compile_module(model, example, "default", target.detect_cpu())
    return build.Loaded(done.executable, build.Parameters(done.params, "cpu"))


def agrees(model: nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """TVM's answers are PyTorch's, in shape, type and value, on three calls."""
    model = model.eval().requires_grad_(False)
    loaded = compiled(model, example)
    for call in range(3):
        inputs = [one + call * 0.37 if one.is_floating_point() else one for one in example]
        expected = model(*inputs)
        got = loaded(*(one.numpy() for one in inputs))
        assert (got.shape, got.dtype) == (tuple(expected.shape), expected.numpy().dtype)
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)


def rotated(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def with_rows_set(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, -1] = 7
    y[:, :, ::3] = x[:, :, ::3] * 2
    return y


# Of each: the operation, its inputs. All of these TVM imports as they are.
RIGHT: dict[str, tuple[Operation, tuple[torch.Tensor, ...]]] = {
    "gelu": (lambda m, x: F.gelu(x) + F.gelu(x, approximate="tanh"), (X,)),
    "silu": (lambda m, x: F.silu(x) + F.relu(x).square() + F.mish(x) + F.elu(x), (X,)),
    "sdpa": (lambda m, q: F.scaled_dot_product_attention(q, q / 2, q + 1), (Q,)),
    "sdpa causal, scaled": (
        lambda m, q: F.scaled_dot_product_attention(q, q / 2, q + 1, is_causal=True, scale=0.7),
        (Q,),
    ),
    "sdpa masked": (
        lambda m, q: F.scaled_dot_product_attention(q, q / 2, q + 1, attn_mask=m.mask),
        (Q,),
    ),
    "sdpa grouped": (
        lambda m, q: F.scaled_dot_product_attention(
            torch.cat([q, q], 1), q, q + 1, is_causal=True, enable_gqa=True
        ),
        (Q,),
    ),
    "attention by hand": (
        lambda m, q: (
            (q @ q.transpose(-2, -1) / math.sqrt(q.size(-1)))
            .masked_fill(~m.mask, float("-inf"))
            .softmax(-1)
            @ q
        ),
        (Q,),
    ),
    "tril and triu": (lambda m, q: torch.tril(q @ q.mT, 1) + torch.triu(q @ q.mT, -1), (Q,)),
    "einsum": (lambda m, q: torch.einsum("bhqd,bhkd->bhqk", q, q * 2), (Q,)),
    "rotary": (lambda m, q: q * m.cos + rotated(q) * m.cos.flip(0), (Q,)),
    "rotary, interleaved": (
        lambda m, q: torch.stack([q[..., ::2] * 2 - q[..., 1::2], q[..., ::2]], -1).flatten(-2),
        (Q,),
    ),
    "rms by hand": (lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), (X,)),
    "split and chunk": (
        lambda m, x: torch.cat([*x.split(3, dim=-1)[::-1], *x.chunk(3, dim=-1)], -1),
        (X,),
    ),
    "negative slices": (lambda m, x: x[:, -1:] + x[:, -4:-1, :].mean(1, keepdim=True), (X,)),
    "slices with a step": (lambda m, x: x[:, 1::2, ::3] + x[:, -4::2, :3], (X,)),
    "index_select": (lambda m, x, i: x.index_select(-2, i), (X, torch.tensor([1, 4]))),
    "gather": (lambda m, x, i: x.gather(-1, i[..., None]), (X, INTEGERS)),
    "cat and stack": (lambda m, x: torch.stack([torch.cat([x, x * 2], -2)] * 2, -1), (X,)),
    "arange and expand": (lambda m, x: x[:, :1].expand(2, 5, -1) + torch.arange(8), (X,)),
    "cumsum": (lambda m, x, i: x.cumsum(-2) + (i > 2).long().cumsum(1)[..., None], (X, INTEGERS)),
    "where": (lambda m, x: torch.where(x > 0, x, torch.tensor(-1e9)).exp(), (X,)),
    "dropout at rest": (lambda m, x: F.dropout(x, 0.5, m.training), (X,)),
    "rows set": (lambda m, x: with_rows_set(x), (X,)),
    "topk": (lambda m, x: torch.topk(x, 3)[0], (X,)),
    "variance": (lambda m, x: x.var(-1) + x.std(-1) + x.var(-1, unbiased=False), (X,)),
    "norm": (lambda m, x: F.normalize(x, dim=-1), (X,)),
    "one_hot": (lambda m, i: F.one_hot(i, 5).float(), (INTEGERS,)),
    "addmm": (lambda m, x: torch.addmm(x[0], x[0] @ x[0].mT, x[1], beta=0.5, alpha=2), (X,)),
}

# What it imports wrongly without a word, or stumbles over: rewritten.
REPAIRED: dict[str, tuple[Operation, tuple[torch.Tensor, ...]]] = {
    "truth values beside a number": (
        lambda m, q: (
            (q @ q.transpose(-2, -1) / math.sqrt(q.size(-1)))
            .masked_fill(m.mask == 0, float("-inf"))
            .softmax(-1)
            @ q
        ),
        (Q,),
    ),
    "[-1] in a list": (lambda m, x: x[:, [-1], :], (X,)),
    "-1 as an index": (lambda m, x: x[:, -1], (X,)),
    "-2 by select": (lambda m, x: x.select(-1, -2), (X,)),
    "lists with negatives": (lambda m, x: x[[-1, 0], [1, -2]], (X,)),
    "lists behind a dimension": (lambda m, x: x[:, [-1, 0], [1, -2]], (X,)),
    "a buffer with negatives": (lambda m, x: x[:, m.places], (X,)),
    "an input with negatives": (lambda m, x, i: x[:, i], (X, torch.tensor([[1, 4, -1]]))),
    "take": (lambda m, x, i: torch.take(x, i), (X, torch.tensor([1, -1]))),
    "alpha": (lambda m, x: torch.add(x, x * x, alpha=3) - torch.sub(x, 2, alpha=0.5), (X,)),
    "rsub with alpha": (lambda m, x: torch.rsub(x, x * x, alpha=3), (X,)),
    "integers by a fraction": (lambda m, i: i * 0.5 + (0.5 - i), (INTEGERS,)),
    "integers divided": (lambda m, i: i / 2 + i / (i + 1), (INTEGERS,)),
    "integers beside a fraction": (lambda m, i: (i < 1.5).float() + i.clamp(0.5, 2.5), (INTEGERS,)),
    "integers rounded down": (lambda m, i: (i - 3) // 2, (INTEGERS,)),
    "ALiBi": (lambda m, q: q @ q.mT - (torch.arange(6) - torch.arange(6)[:, None]) * 0.5, (Q,)),
    "roots of integers": (lambda m, i: torch.sqrt(i) + torch.exp(i) + i**0.5, (INTEGERS,)),
    "selu": (lambda m, x: F.selu(x), (X,)),
    "a mask of -inf": (
        lambda m, q: (q @ q.mT + torch.triu(torch.full((6, 6), float("-inf")), 1)).softmax(-1),
        (Q,),
    ),
    "truth values summed up": (lambda m, x: (x > 0).cumsum(-1), (X,)),
    "a norm without a bias": (lambda m, x: F.layer_norm(x, (8,), m.cos[0, :1].expand(8)), (X,)),
    "a norm without a weight": (lambda m, x: F.layer_norm(x, (8,), None, x[0, 0]), (X,)),
    "a group norm without a bias": (lambda m, x: F.group_norm(x.mT, 2, x[0, 0]), (X,)),
    # Whole numbers, so that a sum in float32 is exact, and long enough that one in 16 bits is not.
    "a product of 16 bits": (lambda m, x: (long(x) @ long(x).mT).float(), (X,)),
    "a product of bfloat16": (
        lambda m, x: (x.round().bfloat16() @ x[0].mT.bfloat16()).float(),
        (X.round(),),
    ),
    "a layer of 16 bits": (
        lambda m, x: F.linear(long(x), long(x[0, :3]), whole(x[1, 0, :3])).float(),
        (X,),
    ),
    "a sum of 16 bits": (lambda m, x: long(x).sum(-1).float(), (X,)),
    "a sum of all": (lambda m, x: (long(x)[0, 0].sum() + whole(x)).float(), (X,)),
    "a sum asked for in 16 bits": (
        lambda m, x: (long(x) / 2).sum(-1, dtype=torch.float16).float(),
        (X,),
    ),
    "a sum rounded before": (
        lambda m, x: long(x).float().sum(-1, dtype=torch.float16).float(),
        (X,),
    ),
    "a mean of 16 bits": (lambda m, x: long(x).mean(-1).float(), (X,)),
    "a mean of all": (lambda m, x: (long(x)[0].mean() + whole(x)).float(), (X,)),
    "a log of a softmax": (lambda m, x: (long(x) * 0).log_softmax(-1).float(), (X,)),
    "a softmax of 16 bits": (
        lambda m, x: (whole(x) * 0).repeat(1, 1, 400).softmax(-1).float() * 1000,
        (X,),
    ),
}

REFUSED: dict[str, tuple[Operation, tuple[torch.Tensor, ...], str]] = {
    "dropout in training": (lambda m, x: F.dropout(x, 0.5, True), (X,), "native_dropout"),
    "random numbers": (lambda m, x: x + torch.randn(8), (X,), "randn"),
    "products of integers": (lambda m, i: i @ i.T, (INTEGERS,), "mm.default"),
    "powers of integers": (lambda m, i: (i + 1) ** 2, (INTEGERS,), "pow"),
    "a mask as an index": (lambda m, x: x[:, :, m.mask[0, :1].expand(8)], (X,), "index.Tensor"),
    "indices around a dimension": (lambda m, x: x[[0, 1], :, [1, 2]], (X,), "index.Tensor"),
    "complex numbers": (lambda m, q: torch.view_as_complex(q.unflatten(-1, (2, 2))).real.abs(),
                        (Q,), "view_as_complex"),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_what_a_gpt_may_use_comes_out_as_pytorch_has_it(case: str) -> None:
    operation, example = RIGHT[case]
    agrees(Model(operation), example)


@pytest.mark.parametrize("case", REPAIRED)
def test_what_tvm_gets_wrong_is_rewritten_and_comes_out_right(case: str) -> None:
    operation, example = REPAIRED[case]
    exported = torch.export.export(Model(operation).eval(), example).run_decompositions()
    assert check.check(exported, example), "nothing was rewritten"
    assert not repairs.repair(exported), "rewritten twice"
    agrees(Model(operation), example)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_rewritten_is_refused_by_name(case: str) -> None:
    operation, example, name = REFUSED[case]
    with pytest.raises(UsageFault, match=name) as caught:
        importer.import_module(Model(operation).eval(), example)
    assert "test_import_check.py:" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("part", [
    nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8), nn.Embedding(5, 8, padding_idx=0),
    nn.Linear(8, 3, bias=False), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
], ids=lambda part: type(part).__name__)  # fmt: skip
def test_a_layer_of_pytorchs_comes_out_as_pytorch_has_it(part: nn.Module) -> None:
    inputs = INTEGERS if isinstance(part, nn.Embedding) else X
    agrees(Model(lambda m, x: m.part(x), part), (inputs,))


class NanoGPT(nn.Module):
    """What nanoGPT's own model.py does: no biases in its norms, the last position by a list."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8, bias=False)
        self.mix = nn.Linear(8, 8, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens)
        x = x + self.mix(self.norm(x)).cumsum(dim=1)
        return F.linear(self.norm(x)[:, [-1], :], self.wte.weight)


def test_a_model_written_as_nanogpt_is_gives_the_right_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    model = NanoGPT().eval().requires_grad_(False)
    tokens = torch.randint(11, (2, 7))
    agrees(model, (tokens,))
    # And without the check the last position is none of the model's.
    monkeypatch.setattr(repairs, "repair", lambda exported: [])
    with pytest.raises(AssertionError):
        agrees(model, (tokens,))


def test_all_that_is_missing_is_told_at_once_with_its_line() -> None:
    class Exotic(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = x.amin(dim=0) + x.amin(dim=1).sum() + x.prod(dim=1).sum()
            return low + F.dropout(x, 0.1, True)

    with pytest.raises(UsageFault) as caught:
        importer.import_module(Exotic(), (torch.randn(3, 4),))
    said, hint = caught.value.message, caught.value.hint or ""
    assert api.VERSION in said
    assert "amin.default (2 times) [test_import_check.py:" in said
    assert "prod.dim_int" in said and "native_dropout" in said
    assert "x.min(dim).values" in hint and "cumprod" in hint


def test_what_its_rules_run_into_is_told_with_the_operator() -> None:
    model = Model(lambda m, x, i: x.index_copy(1, i, x[:, :1]))
    with pytest.raises(UsageFault, match=r"fails at index_put\.") as caught:
        importer.import_module(model, (X, torch.tensor([2])))
    assert "test_import_check.py:" in caught.value.message


def test_one_tensor_given_twice_is_refused() -> None:
    with pytest.raises(UsageFault, match="inputs 0 and 2") as caught:
        importer.import_module(Model(lambda m, a, b, c: a - b * c), (X, X.clone(), X))
    assert "clone" in (caught.value.hint or "")


def test_a_graph_that_is_right_is_left_alone() -> None:
    model = Model(lambda m, x: torch.add(x[:, 1], x[:, [0, 2]].sum(1)) / 2)
    exported = torch.export.export(model.eval(), (X,)).run_decompositions()
    before = str(exported.graph)
    assert check.check(exported, (X,)) == []
    assert str(exported.graph) == before
