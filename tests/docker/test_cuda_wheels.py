"""The CUDA profile, built for real and compiled in. No GPU is needed; several GB of disk are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import image, pins, runs
from bench.host.engine.endpoint import Endpoint
from bench.host.image import Image
from tests.conftest import ROOT, cannot_run

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PROFILE = "cuda-wheels"
NEEDED_GIB = 25


@pytest.fixture(scope="module")
def cuda_image(endpoint: Endpoint, client: DockerClient, base_ref: str) -> Image:
    """The image of this checkout, found or built. It stays, for `invoke bench --gpu`."""
    request = image.BuildRequest(profile=PROFILE)
    pinned = pins.load()
    found = image.find(image.plan(request, pinned, client, made_base=True), client)
    if found is not None:
        return found
    root = Path(client.info()["DockerRootDir"])
    free_gib = shutil.disk_usage(root if root.is_dir() else "/").free / 2**30
    if free_gib < NEEDED_GIB:
        cannot_run(f"{free_gib:.0f} GiB free, the build takes up to {NEEDED_GIB} GiB")
    return image.ensure(request, pinned, endpoint, client, made_base=True)


def test_the_image_has_the_cuda_build_of_torch(cuda_image: Image, client: DockerClient) -> None:
    code = "import torch; print(torch.version.cuda)"
    said = client.containers.run(
        cuda_image.id, ["python", "-c", code], network_mode="none", remove=True
    )
    major, _, _ = said.decode().strip().partition(".")
    assert major.isdecimal() and int(major) >= 12


def test_kernels_compile_for_a_gpu_that_is_not_there(cuda_image: Image, tmp_path: Path) -> None:
    """To machine code: the image brings NVRTC and the headers that TVM's kernels include."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "compile", "--engine", "docker", "--profile", PROFILE,
         "--cuda-arch", "sm_90", "--model", "gpt-nano", "--backends", "tvm-optimized",
         "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = runs.listed(tmp_path)
    record = runs.read_record(path / runs.RECORD)
    assert record.image is not None and record.image.id == cuda_image.id
    (row,) = record.results
    assert row.status == "ok" and row.artefact and row.compile_cached is False
    assert row.target is not None and (row.target["kind"], row.target["arch"]) == ("cuda", "sm_90")
