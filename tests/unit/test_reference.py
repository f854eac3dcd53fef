"""The parity gate: it passes what is right and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.catalog import GATED_CALLS, BertConfig
from bench.job import bert, gpt, reference
from bench.record import JobSpec, Weights

SPEC = JobSpec(model="gpt-nano", batch_size=2, seq_len=9, seed=3)
LogitsOf = Callable[[torch.Tensor], np.ndarray]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    reference.write(SPEC, gpt.build(gpt.preset(SPEC.model), SPEC.seed), directory)
    return directory


def backend(model: gpt.GPT) -> LogitsOf:
    return lambda tokens: np.asarray(model(tokens))


def honest() -> LogitsOf:
    return backend(gpt.build(gpt.preset(SPEC.model), SPEC.seed))


def test_the_reference_is_the_whole_model_in_float64(written: Path) -> None:
    model = gpt.build(gpt.preset(SPEC.model), SPEC.seed).double()
    tokens = reference.gated_tokens(SPEC, 1)
    want = model(tokens).numpy()
    got = np.load(written / "reference-1.npy")
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_pytorch_in_float32_passes(written: Path) -> None:
    parity = reference.gate(SPEC, honest(), written)
    assert parity.passed
    assert parity.calls == 3
    assert parity.max_abs_err is not None and 0 < parity.max_abs_err < 1e-4
    assert parity.top1_agreement == 1.0
    assert parity.reference == "float64, layer by layer"


def test_a_bert_is_widened_whole_and_the_reference_says_so(tmp_path: Path) -> None:
    config = BertConfig(n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=37)
    spec = JobSpec(
        model="custom", mode="encode", seq_len=9, weights=Weights.of("here", "0" * 64, config)
    )
    model = bert.build(config, 3)
    reference.write(spec, model, tmp_path)
    parity = reference.gate(spec, lambda tokens: np.asarray(model(tokens)), tmp_path)
    assert parity.passed
    assert parity.reference == "float64"


@pytest.mark.parametrize(("given", "passed"), [(0.0, True), (1e-30, False), (np.nan, False)])
def test_logits_that_are_all_zero_have_no_error_allowed(
    tmp_path: Path, given: float, passed: bool
) -> None:
    model = gpt.build(gpt.preset(SPEC.model), SPEC.seed)
    with torch.no_grad():
        model.wte.weight.zero_()
    reference.write(SPEC, model, tmp_path)
    parity = reference.gate(SPEC, lambda tokens: np.asarray(model(tokens)) + given, tmp_path)
    assert parity.passed is passed
    assert parity.max_rel_err == (0.0 if passed else None)


def test_every_call_has_fresh_inputs() -> None:
    calls = [reference.gated_tokens(SPEC, call) for call in range(GATED_CALLS)]
    assert len({tuple(tokens.flatten().tolist()) for tokens in calls}) == 3
    timed = gpt.tokens_for(gpt.preset(SPEC.model), 2, 9, SPEC.seed)
    assert all(not torch.equal(timed, tokens) for tokens in calls)


@pytest.mark.parametrize(
    "name", ["h.1.mlp.c_fc.weight", "h.2.attn.c_proj.bias", "ln_f.weight", "wpe.weight"]
)
def test_one_changed_weight_fails(written: Path, name: str) -> None:
    model = gpt.build(gpt.preset(SPEC.model), SPEC.seed)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] += 1.0
    parity = reference.gate(SPEC, backend(model), written)
    assert not parity.passed


def test_garbage_in_the_third_call_alone_fails(written: Path) -> None:
    right = honest()
    calls = 0

    def lucky_twice(tokens: torch.Tensor) -> np.ndarray:
        nonlocal calls
        calls += 1
        logits: np.ndarray = right(tokens).copy()
        if calls == 3:
            logits[1, 4, 100] += 1.0
        return logits

    assert not reference.gate(SPEC, lucky_twice, written).passed


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_nan_in_any_call_fails_and_is_recorded_as_null(written: Path, at: int) -> None:
    right = honest()
    calls = -1

    def with_nan(tokens: torch.Tensor) -> np.ndarray:
        nonlocal calls
        calls += 1
        logits: np.ndarray = right(tokens).copy()
        if calls == at:
            logits[0, 0, 0] = np.nan
        return logits

    parity = reference.gate(SPEC, with_nan, written)
    assert not parity.passed
    assert parity.max_abs_err is None and parity.max_rel_err is None


def test_logits_of_another_shape_are_refused(written: Path) -> None:
    right = honest()
    with pytest.raises(ValueError, match="shape"):
        reference.gate(SPEC, lambda tokens: right(tokens)[:, -1:], written)
