"""The image as an engine has it: what is in it, what is not, and when it is built at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import bases, buildx, content, image, pins
from bench.host.engine.endpoint import Endpoint
from bench.host.image import BuildRequest, Image

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture
def no_buildx(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a build was started")

    monkeypatch.setattr(buildx, "run", refuse)


# --- built once ---


@pytest.mark.usefixtures("no_buildx")
def test_unchanged_build_is_found(
    built_image: Image, endpoint: Endpoint, client: DockerClient
) -> None:
    again = image.ensure(BuildRequest(profile="cpu"), pins.load(), endpoint, client, made_base=True)
    assert again.id == built_image.id
    assert not again.built


@pytest.mark.usefixtures("no_buildx")
def test_changed_project_is_not_taken_for_it(
    built_image: Image, client: DockerClient, tmp_path: Path
) -> None:
    root = copy_of_inputs(tmp_path)
    request = BuildRequest(profile="cpu")
    same = image.plan(request, pins.load(), client, made_base=True, root=root)
    found = image.find(same, client)
    assert found is not None and found.id == built_image.id
    with (root / "bench" / "job" / "gpt.py").open("a") as file:
        file.write("# changed\n")
    changed = image.plan(request, pins.load(), client, made_base=True, root=root)
    assert changed.tag != same.tag
    assert image.find(changed, client) is None


def test_change_of_the_project_rebuilds_no_package_layer(
    built_image: Image, endpoint: Endpoint, client: DockerClient, tmp_path: Path
) -> None:
    root = copy_of_inputs(tmp_path)
    with (root / "bench" / "job" / "gpt.py").open("a") as file:
        file.write("# changed\n")
    changed = image.ensure(
        BuildRequest(profile="cpu"), pins.load(), endpoint, client, made_base=True, root=root
    )
    try:
        before, after = (
            client.images.get(one.id).attrs["RootFS"]["Layers"] for one in (built_image, changed)
        )
        assert len(before) == len(after)
        assert before[:-1] == after[:-1]
        assert before[-1] != after[-1]
    finally:
        client.images.remove(changed.tag)


# --- what is in it ---


def test_labels_hold_every_pin_and_the_base(
    built_image: Image, client: DockerClient, base_ref: str
) -> None:
    labels = client.images.get(built_image.id).labels
    for key, value in pins.load().resolved("cpu").items():
        assert labels[f"io.gpt-frontend.pin.{key}"] == value
    assert labels["io.gpt-frontend.profile"] == "cpu"
    assert labels["io.gpt-frontend.base"] in (base_ref, pins.load().profile("cpu").base)
    base = client.images.get(labels["io.gpt-frontend.base"])
    assert labels["io.gpt-frontend.base-id"] == bases.identity(base)
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_any_uid_imports_torch_and_tvm_of_the_pinned_versions(
    built_image: Image, client: DockerClient
) -> None:
    code = (
        "import json, torch, tvm, bench.record;"
        "print(json.dumps([torch.__version__, tvm.__version__]))"
    )
    output = client.containers.run(
        built_image.id,
        ["python", "-c", code],
        user="12345:23456",
        remove=True,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "exec"},
    )
    versions = pins.load().versions
    assert json.loads(output.splitlines()[-1]) == [f"{versions.torch}+cpu", versions.tvm]


def test_no_uid_is_baked_in_and_the_default_command_helps(
    built_image: Image, client: DockerClient
) -> None:
    assert client.images.get(built_image.id).attrs["Config"].get("User", "") == ""
    shown = client.containers.run(built_image.id, remove=True, user="12345:23456")
    assert b"usage:" in shown and b"bench.job" in shown


def test_the_projects_files_are_readable_whatever_the_umask(
    built_image: Image, client: DockerClient
) -> None:
    command = ["find", "/opt/gpt-frontend", "/opt/venv", "!", "-perm", "-a=r", "-print"]
    assert client.containers.run(built_image.id, command, remove=True) == b""


def test_no_logs_lists_or_caches(built_image: Image, client: DockerClient) -> None:
    # A find that fails must fail the test, not pass for one that found nothing.
    command = [
        "sh",
        "-ec",
        "for folder in /var/log /var/lib/apt/lists /var/cache/apt/archives /tmp /root/.cache; do"
        ' if [ -e "$folder" ]; then find "$folder" -type f; fi; done',
    ]
    left = client.containers.run(built_image.id, command, remove=True).decode().split()
    assert [path for path in left if not path.endswith("/lock")] == []


def test_no_path_of_the_hosts_wheels(built_image: Image, client: DockerClient) -> None:
    folder = os.environ.get("PIP_FIND_LINKS")
    if not folder:
        folder = "/mnt/wheelhouse"  # where the build has them
    places = ["/etc", "/opt", "/root", "/var"]

    def search(text: str) -> tuple[int, bytes]:
        container = client.containers.create(built_image.id, ["grep", "-rIlF", "--", text, *places])
        try:
            container.start()
            return int(container.wait()["StatusCode"]), container.logs()
        finally:
            container.remove(force=True)

    assert search(folder) == (1, b"")  # 1: searched and found nothing; 2 would be an error
    assert search("/opt/venv")[0] == 0  # and what is there is found
    assert folder not in json.dumps(client.images.get(built_image.id).history())


# --- failures ---


def test_plain_build_without_a_registry_exits_2_and_says_what_works(
    client: DockerClient, base_ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address that no registry has, so that the test holds where a registry does answer.
    absent = "registry.invalid/debian:bookworm-slim@sha256:" + "0" * 64
    loaded = pins.load()
    profiles = {
        name: profile.model_copy(update={"base": absent})
        for name, profile in loaded.profiles.items()
    }
    changed = loaded.model_copy(update={"profiles": profiles})
    with pytest.raises(UsageFault) as caught:
        image.plan(BuildRequest(), changed, client)
    assert caught.value.exit_code == 2
    hint = str(caught.value.hint)
    assert "invoke base-image" in hint
    assert "--profile cpu" in hint and "--profile cuda-wheels" in hint
    named = image.plan(BuildRequest(profile="cpu"), changed, client)
    assert (named.base.ref, named.base.origin) == (base_ref, "made")


def test_failed_build_shows_the_steps_output_and_tags_nothing(
    endpoint: Endpoint, client: DockerClient, base_ref: str, tmp_path: Path
) -> None:
    root = copy_of_inputs(tmp_path)
    dockerfile = root / "docker" / "Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM ${BASE}\nRUN echo something odd; exit 9\n")
    request = BuildRequest("cpu", base_ref)
    with pytest.raises(JobFailed) as caught:
        image.ensure(request, pins.load(), endpoint, client, root=root)
    assert "something odd" in caught.value.message
    assert caught.value.hint
    assert image.find(image.plan(request, pins.load(), client, root=root), client) is None


def test_interrupted_build_is_stopped_in_the_engine_and_tags_nothing(
    endpoint: Endpoint, client: DockerClient, base_ref: str, tmp_path: Path
) -> None:
    root = copy_of_inputs(tmp_path)
    mark = f"86399.{os.getpid()}"  # seconds, and a word that only this build's process has
    (root / "docker" / "Dockerfile").write_text(
        f"ARG BASE\nFROM ${{BASE}}\nRUN echo begun; sleep {mark}\n"
    )
    code = (
        "import pathlib, sys; from bench.host import image, pins;"
        "from bench.host.engine.endpoint import connect, find_endpoint;"
        "where = find_endpoint();"
        "image.ensure(image.BuildRequest('cpu', sys.argv[1]), pins.load(), where, connect(where),"
        " root=pathlib.Path(sys.argv[2]), progress=lambda step: print(step, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, base_ref, str(root)],
        cwd=image.ROOT,
        env={**os.environ, "DOCKER_HOST": endpoint.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "sleep" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert not sleeping(mark)
    request = BuildRequest("cpu", base_ref)
    assert image.find(image.plan(request, pins.load(), client, root=root), client) is None


def sleeping(mark: str) -> list[str]:
    """The processes of this machine that sleep for just that long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if words[0] == "sleep" and mark in words:
                found.append(path.parent.name)
    return found


def copy_of_inputs(folder: Path) -> Path:
    """The files that an image is made from, in a folder where they can be changed."""
    root = folder / "project"
    locks = [path.name for path in (image.ROOT / "docker" / "locks").glob("*.txt")]
    for path in content.inputs(image.ROOT, locks, from_source=True):
        target = root / path.relative_to(image.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    shutil.copy2(image.ROOT / "pyproject.toml", root)
    return root
