"""Operations and bytes of a call: against the models themselves and against published counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import counts
from bench.catalog import DECODE_STEPS, MODELS, BertConfig, Geometry, GPTConfig
from bench.job import bert, gpt
from bench.job.cached import Step, empty_cache

GPT = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=101)
BERT = BertConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=101)


def counted(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """What PyTorch counts while the module runs: its fused attention of a CPU it does not count."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module(*inputs)
    return int(counter.get_total_flops())


def attention(geometry: Geometry, batch: int, pairs: float) -> float:
    """Queries by keys and weights by values: two operations for each of C, of each pair."""
    return batch * geometry.n_layer * 2 * 2 * geometry.n_embd * pairs


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 16), (3, 7), (2, 64)])
def test_a_prefill_is_what_pytorch_counts_less_the_pairs_that_look_ahead(
    batch: int, length: int
) -> None:
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    whole = counted(gpt.build(GPT, 0), tokens)
    ahead = length * length - length * (length + 1) / 2
    ours = counts.of_call(GPT, "prefill", batch, length, "float32")
    assert ours.flops == whole - attention(GPT, batch, ahead)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 16), (3, 64)])
def test_an_encoding_is_what_pytorch_counts(batch: int, length: int) -> None:
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    ours = counts.of_call(BERT, "encode", batch, length, "float32")
    assert ours.flops == counted(bert.build(BERT, 0), tokens)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_decoded_token_is_what_pytorch_counts_of_the_positions_there_are(batch: int) -> None:
    length, capacity = 20, 20 + DECODE_STEPS
    token, position = torch.zeros(batch, 1, dtype=torch.int64), torch.tensor([length])
    cache = empty_cache(GPT, batch, capacity)
    # It multiplies with the whole cache, empty places too; its own position it does elementwise.
    whole = counted(Step(gpt.build(GPT, 0)), token, position, *cache)
    mean = length + (DECODE_STEPS - 1) / 2
    ours = counts.of_call(GPT, "decode", batch, length, "float32")
    assert ours.flops == whole - attention(GPT, batch, capacity) + attention(GPT, batch, mean + 1)


def test_gpt2_takes_two_operations_a_weight_and_token_as_published() -> None:
    # Kaplan et al. 2020, table 1: 2N a token and 2 L T C for attention over the whole context;
    # N without embeddings, but the head is done all the same.
    small = MODELS["gpt2"]
    got = counts.of_call(small, "prefill", 1, 1024, "float32").flops / 1024
    weights = 12 * small.n_layer * small.n_embd**2 + small.n_embd * small.vocab_size
    assert weights == pytest.approx(123.5e6, rel=1e-3)
    assert got == pytest.approx(2 * weights + 2 * small.n_layer * 1025 * small.n_embd)
    # nanoGPT counts 2 (N - positions) + 4 L T C forward: all pairs, and the norms in N.
    assert got < 2 * 123.65e6 + 4 * small.n_layer * 1024 * small.n_embd
    assert got > 0.9 * 2 * 124e6


@pytest.mark.parametrize("name", ["gpt-nano", "gpt2", "gpt2-medium", "bert-base"])
def test_a_call_of_one_token_reads_every_parameter_it_needs_once(name: str) -> None:
    geometry = MODELS[name]
    C, V = geometry.n_embd, geometry.vocab_size
    if isinstance(geometry, BertConfig):
        mode, parameters = "encode", bert.parameter_count(geometry)
        unread = (geometry.block_size + geometry.type_vocab_size - 1) * C
    else:
        mode, parameters = "prefill", gpt.parameter_count(geometry)
        unread = geometry.block_size * C
    moved = counts.of_call(geometry, mode, 1, 1, "float32").bytes_moved
    # The embedding is the tied head too; rows of it and of the positions' are looked up besides.
    assert moved == 4 * (parameters - unread + C + C + V)


def test_a_decoded_token_reads_the_cache_and_half_the_bytes_in_half_the_width() -> None:
    small = MODELS["gpt2"]
    near, far = (counts.of_call(small, "decode", 2, at, "float32") for at in (100, 600))
    assert far.bytes_moved - near.bytes_moved == 2 * 12 * 2 * 768 * 500 * 4
    half = counts.of_call(small, "decode", 2, 100, "bfloat16")
    assert half.bytes_moved == near.bytes_moved / 2
    assert half.flops == near.flops


def test_near_the_end_of_the_block_the_mean_context_is_shorter() -> None:
    last = counts.of_call(GPT, "decode", 1, GPT.block_size - 1, "float32")
    before = counts.of_call(GPT, "decode", 1, GPT.block_size - 2, "float32")
    assert last.flops - before.flops == attention(GPT, 1, 0.5)
