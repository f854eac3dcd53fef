"""The spec refuses what cannot run; the record refuses what was not measured."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.catalog import BACKENDS, MODELS
from bench.errors import UsageFault
from bench.host import schema
from bench.host.request import spec_from
from bench.record import JobSpec, Latency, Parity, Result, Weights
from tests.unit.samples import record

MS = st.floats(min_value=0.001, max_value=1e5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "gpt5"}, "unknown model 'gpt5'"),
        ({"mode": "sideways"}, "unknown mode 'sideways'"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"backends": "torch-eager,mxnet"}, "unknown backend 'mxnet'"),
        ({"backends": "tvm-none,tvm-none"}, "a backend is named twice"),
        ({"backends": ","}, "--backends"),
        ({"seq_len": "1025"}, "seq_len 1025 is over the block size of gpt2"),
        ({"seq_len": "0"}, "--seq-len '0'"),
        ({"layers": "0"}, "--layers '0'"),
        ({"batch_size": "0"}, "--batch-size '0'"),
        ({"batch_size": "many"}, "--batch-size 'many'"),
        ({"batch_size": "1.5"}, "--batch-size '1.5'"),
        ({"repeats": "3"}, "--repeats '3'"),
        ({"timeout_s": "0"}, "--timeout '0'"),
        ({"timeout_s": "nan"}, "--timeout 'nan'"),
        ({"cuda_arch": "86", "device": "cuda"}, "--cuda-arch '86'"),
    ],
)
def test_a_bad_option_is_named_with_a_hint(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageFault) as caught:
        spec_from(**options)
    assert said in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UsageFault) as caught:
        spec_from(model="gpt5")
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in MODELS)


def test_defaults_are_gpt2_through_every_backend() -> None:
    spec = spec_from(model=None, batch_size=None)
    assert (spec.model, spec.mode, spec.seq_len, spec.batch_size) == ("gpt2", "prefill", 64, 1)
    assert spec.backends == tuple(BACKENDS)


def test_depth_is_all_of_the_geometry_that_layers_change() -> None:
    spec = spec_from(layers="48")
    assert spec.geometry == dataclasses.replace(MODELS["gpt2"], n_layer=48)
    assert spec.named == "gpt2 of 48 layers"
    assert Result.blank("torch-eager", spec).model == spec.named
    assert spec_from().named == "gpt2"


def test_a_checkpoint_has_a_depth_of_its_own() -> None:
    weights = Weights.of("here", "0" * 64, MODELS["gpt-nano"])
    with pytest.raises(UsageFault, match="layers is set beside weights"):
        spec_from(weights=weights.model_dump(), layers="2")


def test_a_spec_refuses_keys_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="batchsize"):
        JobSpec.model_validate({"batchsize": 2})


@given(st.lists(MS, min_size=1, max_size=40))
def test_latency_agrees_with_numpy(samples: list[float]) -> None:
    latency = Latency.of(samples)
    assert latency.samples == samples
    assert latency.median == pytest.approx(np.median(samples))
    assert latency.p10 == pytest.approx(np.percentile(samples, 10))
    assert latency.p90 == pytest.approx(np.percentile(samples, 90))
    assert latency.min == min(samples)


def test_a_summary_that_is_not_of_its_samples_is_refused() -> None:
    honest = Latency.of([3.0, 1.0, 2.0]).model_dump()
    for edit in ({"median": 1.5}, {"min": 0.5}, {"samples": [9.0]}):
        with pytest.raises(ValidationError):
            Latency.model_validate({**honest, **edit})


def test_no_latency_stands_beside_a_parity_that_did_not_pass() -> None:
    row = Result.blank("tvm-default", JobSpec()).model_dump()
    bad = Parity(
        reference="float64", max_abs_err=None, max_rel_err=None, top1_agreement=0.0, passed=False
    )
    latency = Latency.of([1.0]).model_dump()
    for edit in (
        {"parity": bad.model_dump(), "latency_ms": latency},
        {"parity": None, "latency_ms": latency},
        {"parity": bad.model_copy(update={"passed": True}).model_dump(),
         "latency_ms": latency, "status": "failed"},
    ):  # fmt: skip
        with pytest.raises(ValidationError, match="parity"):
            Result.model_validate({**row, **edit})


def test_the_schema_in_docs_is_that_of_the_models_and_fits_a_record() -> None:
    assert schema.PATH.read_text() == schema.text(), "run: python -m bench.host.schema"
    document = json.loads(schema.text())
    jsonschema.Draft202012Validator.check_schema(document)
    whole = json.loads(record().model_dump_json())
    jsonschema.validate(whole, document)
    del whole["spec"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(whole, document)


def test_a_newer_optional_key_does_not_make_a_record_unreadable() -> None:
    raw = json.loads(record().model_dump_json())
    raw["energy_j"] = 12.0
    raw["results"][0]["clock_mhz"] = [1, 2]
    raw["spec"]["cores_pinned"] = [0, 1]
    assert type(record()).model_validate(raw) == record()
    # Nor does a model, a backend or a mode of a later version.
    raw["spec"] |= {"model": "gpt3", "backends": ["onnxruntime"], "mode": "decode"}
    assert type(record()).model_validate(raw).spec.model == "gpt3"
