"""The backends over a real model: registry, artefacts, and the gate behind TVM's back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor import freezing

from bench.catalog import BACKENDS
from bench.errors import UsageFault
from bench.job import artefacts, backends, models, modes, reference
from bench.job.backends.base import Programs
from bench.job.backends.tvm import TVM_OPTIMIZED, TvmReady
from bench.job.compile import build
from bench.record import JobSpec, Parity

SPEC = JobSpec(model="gpt-nano", seq_len=8)


def programs(spec: JobSpec = SPEC) -> Programs:
    return modes.programs(spec, models.build(spec))


def test_every_name_in_the_catalog_is_a_backend() -> None:
    for name in BACKENDS:
        backend = backends.load(name)
        assert backend.slow_by_nature == (name == "tvm-none")


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Inductor has frozen: an entry for each graph."""
    seen: list[Any] = []
    freeze = freezing.freeze

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return freeze(*args, **kwargs)

    monkeypatch.setattr(freezing, "freeze", counted)
    return seen


def test_torch_compile_freezes_both_functions_of_a_decoder(frozen: list[Any]) -> None:
    spec = SPEC.model_copy(update={"mode": "decode"})
    backends.load("torch-compile").prepare(spec, programs(spec))
    assert len(frozen) == 2


def test_torch_compile_freezes_its_weights_on_a_cpu_and_says_so(frozen: list[Any]) -> None:
    prepared = backends.load("torch-compile").prepare(SPEC, programs())
    assert len(frozen) == 1
    assert prepared.target is not None
    assert (prepared.target["mode"], prepared.target["freezing"]) == ("default", True)
    tokens = reference.timed_tokens(SPEC)
    out = prepared.ready.view(prepared.ready.run(modes.FORWARD, prepared.ready.stage(tokens))[0])
    torch.testing.assert_close(out, models.build(SPEC)(tokens), rtol=1e-4, atol=1e-4)
    assert len(frozen) == 1, "compiled again"


@pytest.mark.parametrize("name", ["torch-eager", "torch-compile"])
def test_pytorch_keeps_no_artefacts(name: str) -> None:
    with pytest.raises(UsageFault, match=name):
        backends.load(name).compile_only(SPEC, programs())


def test_cuda_without_a_gpu_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here: tests/gpu runs the backends on it")
    spec = SPEC.model_copy(update={"device": "cuda"})
    for name in ("torch-eager", "torch-compile", "tvm-default"):
        with pytest.raises(UsageFault) as caught:
            backends.load(name).prepare(spec, programs())
        assert caught.value.hint


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    reference.write(SPEC, models.build(SPEC), tmp_path)
    return tmp_path


def gate(ready: TvmReady, directory: Path) -> Parity:
    return reference.gate(SPEC, modes.start(SPEC, ready).logits, directory)


def test_parity_fails_when_one_weight_is_changed_behind_tvms_back(
    gated: Path, own_store: Path
) -> None:
    prepared = TVM_OPTIMIZED.prepare(SPEC, programs())
    assert isinstance(prepared.ready, TvmReady)
    assert gate(prepared.ready, gated).passed
    assert prepared.artefact is not None and prepared.compile_cached is False

    kept = artefacts.get(own_store, prepared.artefact)
    assert kept is not None
    changed = [array.copy() for array in kept.params]
    largest = max(range(len(changed)), key=lambda i: changed[i].size if changed[i].ndim > 2 else 0)
    changed[largest].reshape(-1)[0] += np.float32(1.0)
    loaded = build.load(kept.library, build.Parameters(changed, "cpu"))
    parity = gate(TvmReady({modes.FORWARD: loaded}), gated)
    assert not parity.passed

    # What was compiled once is found, and is as right as it was.
    again = TVM_OPTIMIZED.prepare(SPEC, programs())
    assert again.compile_cached is True
    assert (again.artefact, again.compile_s) == (prepared.artefact, prepared.compile_s)
    assert isinstance(again.ready, TvmReady)
    assert gate(again.ready, gated).passed


@pytest.mark.parametrize("change", [{"seed": 1}, {"seq_len": 9}, {"batch_size": 2}, {"threads": 1}])
def test_another_request_is_another_artefact(change: dict[str, int]) -> None:
    first = TVM_OPTIMIZED.compile_only(SPEC, programs())
    spec = SPEC.model_copy(update=change)
    assert TVM_OPTIMIZED.compile_only(spec, programs(spec)).artefact != first.artefact


def test_functions_of_one_model_share_their_parameters() -> None:
    spec = SPEC.model_copy(update={"mode": "decode"})
    ready = TVM_OPTIMIZED.prepare(spec, programs(spec)).ready
    assert isinstance(ready, TvmReady)
    assert len({id(loaded.params) for loaded in ready.programs.values()}) == 1
