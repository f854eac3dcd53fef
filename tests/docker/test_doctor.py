"""Doctor in front of a real engine: what it says of it, and the container that asks for a GPU."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Any

from bench.host import doctor, owner
from bench.host.doctor.container import RealEngine, ask_driver
from bench.host.engine.docker import OWNER_LABEL, RUN_LABEL
from bench.host.engine.endpoint import Endpoint
from bench.host.image import Image

if TYPE_CHECKING:
    from docker import DockerClient


def probes(client: DockerClient) -> list[Any]:
    """The probe's containers that this process left; others may be at work on the engine too."""
    labels = [f"{RUN_LABEL}=gpu-probe", f"{OWNER_LABEL}={owner.mine()}"]
    return list(client.containers.list(all=True, filters={"label": labels}))


def test_the_engine_is_told_of_as_it_is(endpoint: Endpoint, client: DockerClient) -> None:
    found = {one.check: one for one in doctor.examine("cpu", doctor.RealHost())}
    assert client.version()["Version"] in found["engine"].seen
    assert endpoint.url in found["engine"].seen
    assert {found[name].level for name in ("engine", "buildx", "BuildKit")} == {"ok"}
    assert client.info()["Driver"] in found["engine's storage"].seen
    assert not [one for one in found.values() if "could not be checked" in one.seen]


def test_the_gateway_is_an_address_and_the_cli_is_told_the_same_engine(endpoint: Endpoint) -> None:
    engine = RealEngine.found(os.environ)
    assert ipaddress.ip_address(engine.gateway() or "none").is_private
    assert engine.cli_environ()["DOCKER_HOST"] == endpoint.url
    told = doctor.RealHost().run(
        ["docker", "buildx", "inspect", "default"], environ=engine.cli_environ()
    )
    assert "running" in told.out


def test_the_gpu_probe_tells_the_engines_answer_and_leaves_nothing(client: DockerClient) -> None:
    answer = RealEngine.found(os.environ).try_gpu()
    if answer.refusal is None:
        assert not answer.said or "compute" in answer.said
    else:
        # Words that doctor has a remedy for; the engine without a toolkit says just this.
        assert "could not select device driver" in answer.refusal
    assert not probes(client)


def test_an_image_of_ours_tells_that_it_was_lent_no_driver(
    client: DockerClient, built_image: Image
) -> None:
    answer = ask_driver(client, built_image.id, [])
    assert answer.refusal is not None
    assert "no libcuda.so.1 in the container" in answer.refusal
    assert not probes(client)
