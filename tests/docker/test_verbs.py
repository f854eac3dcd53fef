"""Verbs against a real engine, as a user types them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from bench.host.image import Image
from tests.conftest import ROOT

if TYPE_CHECKING:
    from docker import DockerClient

BASE = "gpt-frontend-test/base:interrupt"


def invoke(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_tags_nothing(
    client: DockerClient, base_ref: str, number: signal.Signals
) -> None:
    client.images.get(base_ref).tag(BASE)  # another name of the base is another tag of the image
    before = {tag for image in client.images.list() for tag in image.tags}
    try:
        process = invoke("build-image", "--profile", "cpu", "--base", BASE, "--no-cache")
        while not _builds():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        time.sleep(2)  # the build is at work, some hundred seconds from its end
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        client.images.remove(BASE)
    assert process.returncode == 1
    assert "error: interrupted" in stderr and "hint: " in stderr and "Traceback" not in stderr
    after = {tag for image in client.images.list() for tag in image.tags}
    assert after == before - {BASE}
    assert not _builds()


def _builds() -> bool:
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return any("buildx" in line and f"BASE={BASE}" in line for line in lines)


def test_an_image_that_is_there_is_found_and_nothing_is_built(built_image: Image) -> None:
    process = invoke("build-image", "--profile", "cpu")
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout.split()[:3] == [built_image.tag, "found,", "unchanged"]


def test_a_base_that_cannot_be_had_exits_2(client: DockerClient) -> None:
    process = invoke("build-image", "--base", "gpt-frontend-test/absent:none")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "gpt-frontend-test/absent:none" in stderr and "hint: " in stderr
