"""The contract asked in a real container: kept by the cpu image, broken by a false promise."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.contract import ContractRecord, Expected
from bench.errors import JobFailed, UsageFault
from bench.host import owner, pins, verify
from bench.host.engine import docker
from bench.host.image import Image

if TYPE_CHECKING:
    from docker import DockerClient


def promise(budget: int) -> Expected:
    versions = pins.load().versions
    return Expected(
        profile="cpu",
        device="cpu",
        tvm_from="wheel",
        tvm=versions.tvm,
        tvm_ffi=versions.tvm_ffi,
        torch=versions.torch,
        cuda=False,
        budget_bytes=budget,
    )


def left(client: DockerClient) -> list[str]:
    """Containers of this process that are still there; others may be asking images too."""
    there = client.containers.list(all=True, filters={"label": docker.OWNER_LABEL})
    mine = [one for one in there if one.labels[docker.OWNER_LABEL] == owner.mine()]
    return [container.name or "" for container in mine]


@pytest.fixture(scope="module")
def record(
    client: DockerClient, built_image: Image, tmp_path_factory: pytest.TempPathFactory
) -> ContractRecord:
    folder = tmp_path_factory.mktemp("contracts")
    lines: list[str] = []
    asked = verify.verify(
        client, built_image.tag, promise(budget=1), lines.append, folder=folder, tag="its:name"
    )
    assert list(folder.iterdir()) == [], "what the container wrote was left behind"
    assert any(line.startswith("progress ") for line in lines)
    return asked


def test_the_cpu_image_keeps_all_promises_but_an_impossible_budget(record: ContractRecord) -> None:
    assert [one.name for one in record.failed] == ["image size"]
    names = {one.name for one in record.checks}
    assert {"tvm imports", "tvm then torch", "torch then tvm", "GPT on the CPU"} <= names
    assert record.facts["gpt_cpu"]["parity"]["passed"] is True
    with pytest.raises(JobFailed, match="image size"):
        verify.demand(record)


def test_the_record_names_the_image(
    record: ContractRecord, built_image: Image, client: DockerClient
) -> None:
    assert (record.image.id, record.image.tag) == (built_image.id, "its:name")
    layers = client.images.get(built_image.id).history()
    assert record.size_bytes == sum(layer["Size"] for layer in layers) > 10**9


def test_no_container_is_left(record: ContractRecord, client: DockerClient) -> None:
    assert left(client) == []


@pytest.fixture
def empty_image(client: DockerClient) -> Iterator[str]:
    """An image without any program in it: none of ours."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    tag = "gpt-frontend/contract-test:empty"
    repository, _, name = tag.partition(":")
    client.api.import_image_from_data(content.getvalue(), repository=repository, tag=name)
    yield tag
    client.images.remove(tag, force=True)


def test_an_image_that_cannot_answer(
    client: DockerClient, empty_image: str, tmp_path: Path
) -> None:
    with pytest.raises(JobFailed, match=r"no findings: exit code 127\n.*exec python failed"):
        verify.verify(client, empty_image, promise(budget=1), folder=tmp_path)
    assert left(client) == []
    assert list(tmp_path.iterdir()) == []


def test_no_such_image(client: DockerClient, tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="no image gpt-frontend/absent") as caught:
        verify.verify(client, "gpt-frontend/absent:1", promise(budget=1), folder=tmp_path)
    assert "build-image" in (caught.value.hint or "")


def test_an_answer_that_takes_too_long(
    client: DockerClient, built_image: Image, tmp_path: Path
) -> None:
    with pytest.raises(JobFailed, match="no findings: timeout"):
        verify.verify(client, built_image.tag, promise(budget=1), folder=tmp_path, timeout_s=0.5)
    assert left(client) == []
