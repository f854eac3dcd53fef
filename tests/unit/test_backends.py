"""The backends over a real model: registry, artefacts, and the gate behind TVM's back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.catalog import BACKENDS
from bench.errors import UsageFault
from bench.job import artefacts, backends, gpt, reference
from bench.job.backends.tvm import TVM_OPTIMIZED, TvmReady
from bench.job.compile import build
from bench.record import JobSpec, Parity

SPEC = JobSpec(model="gpt-nano", seq_len=8)


def model() -> gpt.GPT:
    return gpt.build(gpt.preset(SPEC.model), SPEC.seed)


def tokens() -> torch.Tensor:
    return gpt.tokens_for(gpt.preset(SPEC.model), SPEC.batch_size, SPEC.seq_len, SPEC.seed)


def test_every_name_in_the_catalog_is_a_backend() -> None:
    for name in BACKENDS:
        backend = backends.load(name)
        assert backend.slow_by_nature == (name == "tvm-none")


@pytest.mark.parametrize("name", ["torch-eager", "torch-compile"])
def test_pytorch_keeps_no_artefacts(name: str) -> None:
    with pytest.raises(UsageFault, match=name):
        backends.load(name).compile_only(SPEC, model(), tokens())


def test_cuda_without_a_gpu_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here: tests/gpu runs the backends on it")
    spec = SPEC.model_copy(update={"device": "cuda"})
    for name in ("torch-eager", "torch-compile", "tvm-default"):
        with pytest.raises(UsageFault) as caught:
            backends.load(name).prepare(spec, model(), tokens())
        assert caught.value.hint


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    reference.write(SPEC, model(), tmp_path)
    return tmp_path


def gate(ready: TvmReady, directory: Path) -> Parity:
    return reference.gate(SPEC, lambda t: ready.logits(ready.run(ready.stage(t))), directory)


def test_parity_fails_when_one_weight_is_changed_behind_tvms_back(
    gated: Path, own_store: Path
) -> None:
    prepared = TVM_OPTIMIZED.prepare(SPEC, model(), tokens())
    assert isinstance(prepared.ready, TvmReady)
    assert gate(prepared.ready, gated).passed
    assert prepared.artefact is not None and prepared.compile_cached is False

    kept = artefacts.get(own_store, prepared.artefact)
    assert kept is not None
    changed = [array.copy() for array in kept.params]
    largest = max(range(len(changed)), key=lambda i: changed[i].size if changed[i].ndim > 2 else 0)
    changed[largest].reshape(-1)[0] += np.float32(1.0)
    parity = gate(TvmReady(build.load(kept.library, changed, "cpu")), gated)
    assert not parity.passed

    # What was compiled once is found, and is as right as it was.
    again = TVM_OPTIMIZED.prepare(SPEC, model(), tokens())
    assert again.compile_cached is True
    assert (again.artefact, again.compile_s) == (prepared.artefact, prepared.compile_s)
    assert isinstance(again.ready, TvmReady)
    assert gate(again.ready, gated).passed


@pytest.mark.parametrize("change", [{"seed": 1}, {"seq_len": 9}, {"batch_size": 2}, {"threads": 1}])
def test_another_request_is_another_artefact(change: dict[str, int]) -> None:
    first = TVM_OPTIMIZED.compile_only(SPEC, model(), tokens())
    spec = SPEC.model_copy(update=change)
    other_model = gpt.build(gpt.preset(spec.model), spec.seed)
    other = gpt.tokens_for(other_model.config, spec.batch_size, spec.seq_len, spec.seed)
    assert TVM_OPTIMIZED.compile_only(spec, other_model, other).artefact != first.artefact
