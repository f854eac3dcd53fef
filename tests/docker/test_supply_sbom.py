"""A bill of materials against what the image's own tools say of it: nothing missing, no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.host.engine.endpoint import Endpoint
from bench.host.image import Image
from tests.conftest import ROOT

if TYPE_CHECKING:
    from docker import DockerClient


def sbom(image: Image, to: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "sbom", "--image", image.tag, "--to", str(to), *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return to.read_text()


@pytest.fixture(scope="module")
def text(endpoint: Endpoint, built_image: Image, tmp_path_factory: pytest.TempPathFactory) -> str:
    return sbom(built_image, tmp_path_factory.mktemp("sbom") / "bill.json")


@pytest.fixture(scope="module")
def components(text: str) -> list[dict[str, Any]]:
    return list(json.loads(text)["components"])


def asked(client: DockerClient, image: Image, command: list[str]) -> str:
    said = client.containers.run(image.id, command, network_mode="none", remove=True)
    return str(said.decode())


def of_kind(components: list[dict[str, Any]], kind: str) -> list[tuple[str, str]]:
    return sorted(
        (one["name"], one["version"])
        for one in components
        if one["purl"].startswith(f"pkg:{kind}/")
    )


def test_every_package_of_dpkg_is_in_it_and_no_other(
    client: DockerClient, built_image: Image, components: list[dict[str, Any]]
) -> None:
    shown = "${db:Status-Abbrev}\\t${Package}\\t${Version}\\n"
    lines = asked(client, built_image, ["dpkg-query", "-W", "-f", shown]).splitlines()
    installed = sorted(tuple(line.split("\t")[1:]) for line in lines if line.startswith("ii"))
    assert len(installed) > 50
    assert of_kind(components, "deb") == installed


def test_every_package_of_pip_is_in_it_and_no_other(
    client: DockerClient, built_image: Image, components: list[dict[str, Any]]
) -> None:
    said = asked(client, built_image, ["python", "-m", "pip", "list", "--format", "json"])
    installed = sorted((one["name"], one["version"]) for one in json.loads(said))
    assert len(installed) > 20

    def plain(listed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return sorted((re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in listed)

    assert plain(of_kind(components, "pypi")) == plain(installed)


def test_the_llvm_in_tvms_wheel_and_the_project_itself_are_in_it(
    built_image: Image, components: list[dict[str, Any]]
) -> None:
    generic = dict(of_kind(components, "generic"))
    assert set(generic) == {"llvm", "gpt-frontend"}
    assert int(generic["llvm"]) >= 15


def test_it_names_the_image_and_says_the_same_when_asked_again(
    endpoint: Endpoint, built_image: Image, text: str, tmp_path: Path
) -> None:
    about = json.loads(text)["metadata"]["component"]
    assert about["bom-ref"] == f"image:{built_image.digest or built_image.id}"
    assert sbom(built_image, tmp_path / "again.json") == text


def test_it_is_valid_by_cyclonedxs_own_schema(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_nearly_everything_states_its_licence(components: list[dict[str, Any]]) -> None:
    """Not all do: an old copyright file of Debian's may be prose."""
    packaged = [one for one in components if one["purl"].startswith(("pkg:deb/", "pkg:pypi/"))]
    silent = [one["name"] for one in packaged if not one.get("licenses")]
    assert len(silent) < len(packaged) / 10, silent
