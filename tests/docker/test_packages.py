"""The Debian packages of a real image, asked for in a real container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.host.image import Image
from bench.host.lock import frozen, packages
from tests.conftest import ROOT

if TYPE_CHECKING:
    from docker import DockerClient


def test_the_manifest_is_what_dpkg_says_in_the_image(
    client: DockerClient, built_image: Image, tmp_path: Path
) -> None:
    before = {one.id for one in client.containers.list(all=True)}
    found = packages.of_image(client, client.images.get(built_image.id))
    assert {one.id for one in client.containers.list(all=True)} == before
    assert found.base == built_image.labels["io.gpt-frontend.base"]
    # Another way to the same list: the file that dpkg keeps.
    count = ["grep", "-c", "^Status: install ok installed$", "/var/lib/dpkg/status"]
    counted = client.containers.run(built_image.id, count, network_mode="none", remove=True)
    assert len(found.versions) == int(counted) > 50
    assert {"g++", "python3", "libc6"} <= set(found.versions)
    path = packages.path_of("cpu", found.architecture, tmp_path)
    path.write_text(found.text)
    image = client.images.get(built_image.id)
    assert frozen.compared(client, image, "cpu", found.base, tmp_path) is None
    path.write_text(found.text.replace("\ng++=", "\ng++=0"))
    said = frozen.compared(client, image, "cpu", found.base, tmp_path)
    assert said == f"g++ 0{found.versions['g++']} -> {found.versions['g++']}"


def test_a_build_in_ci_is_frozen_and_finds_the_image_that_tests_share(
    built_image: Image,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "build-image", "--profile", "cpu"],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == [built_image.tag, "found,", "unchanged"]
    assert "frozen: " in done.stderr
