"""ONNX Runtime beside the others: the same weights, inputs and threads, and the same gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.catalog import BACKENDS, PEERS, BertConfig
from bench.errors import UsageFault
from bench.job import backends, bert, gpt, models, modes, reference, worker
from bench.job.backends import onnxruntime as ours
from bench.job.backends.base import Program
from bench.record import JobSpec, Result


def spec_of(**options: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"model": "gpt-nano", "seq_len": 8, "threads": 2, "backends": ["onnxruntime"], **options}
    )


def row(spec: JobSpec, out: Path) -> Result:
    report = worker.run_step("onnxruntime", spec, out)
    assert report.result is not None
    return report.result


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_it_passes_the_gate_and_is_measured(mode: str, tmp_path: Path) -> None:
    spec = spec_of(mode=mode, batch_size=2, repeats=10)
    reference.write(spec, models.build(spec), tmp_path)
    result = row(spec, tmp_path)
    assert result.status == "ok", result.reason
    assert result.parity is not None and result.parity.passed and result.parity.calls == 3
    assert result.latency_ms is not None and len(result.latency_ms.samples) == 10
    assert (result.compile_s or 0) > 0 and result.compile_cached is False
    assert result.target is not None
    assert result.target["graph_optimization"] == "ORT_ENABLE_ALL"


def test_bert_is_what_pytorch_says_it_is() -> None:
    config = BertConfig(n_layer=1, n_head=3, n_embd=15, block_size=9, vocab_size=101)
    model = bert.build(config, seed=1)
    tokens = gpt.tokens_for(config, 2, 7, seed=2)
    ready = ours.ONNXRUNTIME.prepare(spec_of(), {modes.FORWARD: Program(model, (tokens,))}).ready
    for seed in (3, 4):
        tokens = gpt.tokens_for(config, 2, 7, seed)
        got = ready.view(ready.run(modes.FORWARD, ready.stage(tokens))[0])
        np.testing.assert_allclose(got, model(tokens), rtol=1e-4, atol=1e-4)


def test_what_a_call_gave_outlives_the_next_call() -> None:
    """The decoder keeps one call's logits while the next ones run."""
    spec = spec_of()
    ready = ours.ONNXRUNTIME.prepare(spec, modes.programs(spec, models.build(spec))).ready
    first, second = (
        ready.view(ready.run(modes.FORWARD, ready.stage(tokens))[0])
        for tokens in (torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64))
    )
    kept = first.clone()
    assert not torch.equal(first, second)
    ready.run(modes.FORWARD, ready.stage(torch.full((1, 8), 2)))
    assert torch.equal(first, kept)


def test_what_is_staged_is_a_copy_that_the_views_share() -> None:
    spec = spec_of()
    ready = ours.ONNXRUNTIME.prepare(spec, modes.programs(spec, models.build(spec))).ready
    given = torch.zeros(2, 3)
    staged = ready.stage(given)
    ready.view(staged)[0, 0] = 5  # as the decoder writes its cache
    assert ready.view(staged)[0, 0] == 5
    assert given[0, 0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "bfloat16"}, "float32 only on cpu, not bfloat16"),
        ({"device": "cuda"}, "cpu only, not cuda"),
    ],
)
def test_what_it_does_not_run_is_skipped_and_says_so(
    options: dict[str, str], said: str, tmp_path: Path
) -> None:
    result = row(spec_of(**options), tmp_path)
    assert result.status == "skipped"
    assert said in (result.reason or "")


def test_an_image_without_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    spec = spec_of()
    with pytest.raises(UsageFault, match="onnxruntime") as caught:
        ours.ONNXRUNTIME.prepare(spec, modes.programs(spec, models.build(spec)))
    assert "build-image" in (caught.value.hint or "")


def test_it_keeps_no_artefact() -> None:
    with pytest.raises(UsageFault, match="onnxruntime keeps no artefact"):
        backends.load("onnxruntime").compile_only(spec_of(), {})


def test_every_peer_is_a_backend_of_the_default_set() -> None:
    assert set(PEERS) < set(BACKENDS)
    assert set(BACKENDS) - set(PEERS) == {"tvm-none", "tvm-default", "tvm-optimized"}
    assert JobSpec().backends == tuple(BACKENDS)
