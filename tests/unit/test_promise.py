"""The contract of an image follows from its labels and the pins."""

from __future__ import annotations

from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import image, promise
from bench.host.image import BuildRequest
from bench.host.pins import Pins, load
from tests.unit.test_image import FakeClient, fake_image


@pytest.fixture
def pins() -> Pins:
    return load()


def labels(pins: Pins, request: BuildRequest) -> dict[str, str]:
    base: Any = fake_image("sha256:b")
    base.attrs["Config"] = {"Env": ["CUDA_VERSION=12.4.1"]}
    client: Any = FakeClient({"b": base})
    return dict(image.plan(request, pins, client, environ={}).labels)


def test_wheels_promise_the_pinned_versions(pins: Pins) -> None:
    expected = promise.of_labels(labels(pins, BuildRequest("cpu", "b")), pins)
    assert (expected.tvm_from, expected.tvm) == ("wheel", pins.versions.tvm)
    assert (expected.build_type, expected.commit) == (None, None)
    assert expected.budget_bytes == int(pins.profile("cpu").budget_gib * 2**30)


def test_llvm10_promises_what_the_project_is_named_for(pins: Pins) -> None:
    expected = promise.of_labels(labels(pins, BuildRequest("llvm10", "b")), pins)
    assert expected.build_type == "Debug"
    assert expected.llvm_version == "10.0.0"
    assert str(expected.llvm_config).endswith("ubuntu-18.04/bin/llvm-config")
    assert expected.cuda and expected.cuda_architectures == ("80", "86", "90")
    assert expected.nvcc == "12.4"
    assert expected.cmake == f"=={pins.versions.cmake}"
    assert expected.commit == pins.sources["0.23.0"].commit
    assert expected.submodules == pins.sources["0.23.0"].gitlinks


def test_another_commit_and_cuda_from_wheels(pins: Pins) -> None:
    request = BuildRequest("llvm10", "b", tvm_ref="ab" * 20, cuda_from_wheels=True, llvm="apt:14")
    expected = promise.of_labels(labels(pins, request), pins)
    assert expected.commit == "ab" * 20
    assert expected.tvm is None and expected.tvm_ffi == pins.sources["0.23.0"].tvm_ffi
    assert expected.submodules == {}, "the lock says nothing of another commit's submodules"
    assert expected.nvcc == pins.versions.nvcc_wheel
    assert expected.llvm_config == "/usr/lib/llvm-14/bin/llvm-config"


def test_an_image_that_is_none_of_ours_promises_nothing(pins: Pins) -> None:
    with pytest.raises(UsageFault, match="no labels of ours"):
        promise.of_labels({"maintainer": "somebody"}, pins)
