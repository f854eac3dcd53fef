"""Plans, content ids and base images, against an engine that is a dictionary."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import buildx, content, image
from bench.host.engine.endpoint import Endpoint
from bench.host.image import BuildRequest
from bench.host.pins import Pins, load

LOCKS = sorted(path.name for path in (image.ROOT / "docker" / "locks").glob("*.txt"))
ENDPOINT = Endpoint("unix:///nowhere.sock", "test")


class FakeClient:
    """The part of a DockerClient that planning uses; ``registry`` maps references to digests."""

    def __init__(self, local: dict[str, Any], registry: dict[str, str] | None = None) -> None:
        self.local, self.registry = local, registry or {}
        self.pulled: list[str] = []
        self.images = SimpleNamespace(get=self._get, get_registry_data=self._offered)
        self.api = SimpleNamespace(timeout=60, pull=self._pull)

    def _get(self, ref: str) -> Any:
        from docker.errors import ImageNotFound

        if ref not in self.local:
            raise ImageNotFound(ref)
        return self.local[ref]

    def _offered(self, ref: str) -> Any:
        from docker.errors import APIError

        if ref not in self.registry:
            raise APIError("no such host")
        return SimpleNamespace(id=self.registry[ref])

    def _pull(self, ref: str, **_: object) -> list[dict[str, str]]:
        self.pulled.append(ref)
        self.local[ref] = fake_image(self.registry[ref])
        return [{"status": "done"}]


def fake_image(identity: str, **labels: str) -> Any:
    return SimpleNamespace(id=identity, attrs={"RepoDigests": []}, labels=labels, tags=[])


def client_with(*refs: str, registry: dict[str, str] | None = None) -> Any:
    return FakeClient({ref: fake_image(f"sha256:{ref}") for ref in refs}, registry)


@pytest.fixture
def pins() -> Pins:
    return load()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of everything that an image is made from."""
    for path in content.inputs(image.ROOT, LOCKS, from_source=True):
        target = tmp_path / path.relative_to(image.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    shutil.copy2(image.ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def content_id(root: Path, pins: Pins, base: str = "mine:1", profile: str = "cpu") -> str:
    request = BuildRequest(profile=profile, base=base)
    return image.plan(request, pins, client_with(base), root=root, environ={}).content_id


# --- the plan ---


def test_plan_carries_every_pin_as_label_and_no_secret(pins: Pins, root: Path) -> None:
    environ = {
        "HTTPS_PROXY": "http://me:hunter2@proxy.example",
        "PIP_INDEX_URL": "https://x.example",
    }
    made = image.plan(
        BuildRequest("cpu", "mine:1"), pins, client_with("mine:1"), root=root, environ=environ
    )
    for key, value in pins.resolved("cpu").items():
        assert made.labels[f"io.gpt-frontend.pin.{key}"] == value
        assert f"io.gpt-frontend.pin.{key}={value}" in made.argv
    assert made.labels["io.gpt-frontend.base-id"] == "sha256:mine:1"
    assert made.tag == f"gpt-frontend:cpu-{made.content_id[:12]}"
    assert "hunter2" not in made.command and "x.example" not in made.command


def test_build_arguments_cover_the_dockerfiles(pins: Pins, root: Path) -> None:
    made = image.plan(BuildRequest("cpu", "b"), pins, client_with("b"), root=root, environ={})
    given = {
        word.partition("=")[0]
        for flag, word in zip(made.argv, made.argv[1:], strict=False)
        if flag == "--build-arg"
    }
    declared = {
        line.split()[1]
        for line in (root / "docker" / "Dockerfile").read_text().splitlines()
        if line.startswith("ARG ")
    }
    # The stage `dev` is built by another command: tests/unit/test_workplace.py.
    assert given == declared - {"DEV_UID", "DEV_GID"}
    assert not any("=" in name for name in declared), "a version of the Dockerfile's own"


def test_cuda_profile_takes_the_cuda_build_and_no_wheelhouse(
    pins: Pins, root: Path, tmp_path: Path
) -> None:
    (tmp_path / f"torch-{pins.versions.torch}+cpu-x.whl").touch()
    environ = {"PIP_FIND_LINKS": f"/nowhere {tmp_path}"}
    cpu, cuda = (
        image.plan(BuildRequest(name, "b"), pins, client_with("b"), root=root, environ=environ)
        for name in ("cpu", "cuda-wheels")
    )
    assert f"wheelhouse={tmp_path}" in cpu.argv and "TORCH=cpu" in cpu.argv
    assert not any("wheelhouse=" in word for word in cuda.argv) and "TORCH=cuda" in cuda.argv


def test_wheelhouse_that_is_no_directory_is_refused(pins: Pins, tmp_path: Path) -> None:
    request = BuildRequest("cpu", "b", wheelhouse=tmp_path / "none")
    with pytest.raises(UsageFault, match="not a directory"):
        image.plan(request, pins, client_with("b"), environ={})


# --- the content id ---


@pytest.mark.parametrize(
    "name",
    [
        "bench/errors.py",
        "bench/job/gpt.py",
        "bench/host/venv.py",
        "docker/Dockerfile",
        "docker/locks/requirements.txt",
        "docker/locks/torch.txt",
        "docker/locks/tvm.txt",
        "docker/apt-install.sh",
        "bench/build/contract.py",
        ".dockerignore",
    ],
)
def test_any_changed_input_gives_another_id(pins: Pins, root: Path, name: str) -> None:
    before = content_id(root, pins)
    with (root / name).open("a") as file:
        file.write("# changed\n")
    assert content_id(root, pins) != before


def test_added_file_and_executable_bit_count(pins: Pins, root: Path) -> None:
    first = content_id(root, pins)
    (root / "bench" / "job" / "added.py").touch()
    second = content_id(root, pins)
    (root / "bench" / "job" / "added.py").chmod(0o755)
    assert len({first, second, content_id(root, pins)}) == 3


def test_what_is_not_copied_does_not_count(pins: Pins, root: Path) -> None:
    before = content_id(root, pins)
    (root / "bench" / "host" / "report.py").write_text("changed")
    (root / "bench" / "job" / "__pycache__").mkdir(exist_ok=True)
    (root / "bench" / "job" / "__pycache__" / "gpt.pyc").write_bytes(b"bytecode")
    for name in ("locks/torch-cuda.txt", "locks/build.txt", "../cmake/config.cmake"):
        (root / "docker" / name).write_text("changed")  # not for this profile
    for path in root.rglob("*.py"):
        path.chmod(0o600)  # another umask
        os.utime(path, (0, 0))
    assert content_id(root, pins) == before


def test_base_profile_and_pins_count(pins: Pins, root: Path) -> None:
    versions = pins.versions.model_copy(update={"tvm_ffi": "0.0.1"})
    ids = {
        content_id(root, pins),
        content_id(root, pins, base="other:1"),
        content_id(root, pins, profile="cuda-wheels"),
        content_id(root, pins.model_copy(update={"versions": versions})),
    }
    assert len(ids) == 4


def test_ignore_file_lets_through_what_is_hashed(root: Path) -> None:
    """A file that is hashed but not in the context would be missing in the build."""
    import re

    lines = (image.ROOT / ".dockerignore").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    patterns = [re.escape(line).replace(r"\*", "[^/]*") + "(/.*)?" for line in allowed]
    files = content.inputs(image.ROOT, LOCKS, from_source=True)
    hashed = {path.relative_to(image.ROOT).as_posix() for path in files}
    for name in hashed - {"docker/Dockerfile", ".dockerignore"}:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


# --- found, not rebuilt ---


def test_image_is_found_by_tag_and_label_without_buildx(
    pins: Pins, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_with("b")
    made = image.plan(BuildRequest("cpu", "b"), pins, client, root=root, environ={})
    client.local[made.tag] = fake_image("sha256:found", **made.labels)
    monkeypatch.setattr(buildx, "run", lambda *_: pytest.fail("buildx was called"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    got = image.ensure(BuildRequest("cpu", "b"), pins, ENDPOINT, client, root=root, environ={})
    assert (got.id, got.built) == ("sha256:found", False)


def test_tag_with_another_content_is_not_taken(pins: Pins, root: Path) -> None:
    client = client_with("b")
    made = image.plan(BuildRequest("cpu", "b"), pins, client, root=root, environ={})
    client.local[made.tag] = fake_image("sha256:other", **{image.CONTENT_LABEL: "other"})
    assert image.find(made, client) is None


# --- the base ---


def test_plain_build_without_registry_names_what_would_work(pins: Pins) -> None:
    """It is the CUDA image, and never silently another one."""
    for client in (client_with(), client_with(pins.base_image.tag)):
        with pytest.raises(UsageFault) as caught:
            image.plan(BuildRequest(), pins, client, environ={})
        assert caught.value.exit_code == 2
        assert pins.profile("llvm10").base in caught.value.message
        hint = str(caught.value.hint)
        assert "invoke base-image" in hint
        assert "--profile cpu" in hint and "--profile cuda-wheels" in hint
        assert "--cuda-from-wheels" in hint
        assert client.pulled == []


def test_made_base_stands_in_where_the_profile_was_named_or_bench_asks(pins: Pins) -> None:
    client = client_with(pins.base_image.tag)
    named = image.plan(BuildRequest(profile="cpu"), pins, client, environ={})
    asked = image.plan(BuildRequest("cpu"), pins, client, made_base=True, environ={})
    assert named.base.origin == asked.base.origin == "made"
    assert named.content_id == asked.content_id


def test_pinned_base_is_pulled_where_a_registry_answers(pins: Pins) -> None:
    ref = pins.profile("cpu").base
    client = client_with(pins.base_image.tag, registry={ref: ref.partition("@")[2]})
    dry = image.plan(BuildRequest("cpu"), pins, client, pull=False, environ={})
    assert client.pulled == []
    real = image.plan(BuildRequest("cpu"), pins, client, environ={})
    assert client.pulled == [ref]
    assert dry.content_id == real.content_id
    assert real.base.id == ref.partition("@")[2]


def test_named_base_is_never_replaced(pins: Pins) -> None:
    client = client_with(pins.base_image.tag, pins.profile("cpu").base)
    with pytest.raises(UsageFault, match="ubuntu:1"):
        image.plan(BuildRequest("cpu", "ubuntu:1"), pins, client, made_base=True, environ={})
    assert client.api.timeout == 60


def test_nothing_imports_the_sdk_at_import() -> None:
    code = "import sys, bench.host.image, bench.host.base_image; print('docker.api' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=image.ROOT
    )
    assert done.stdout.strip() == "False"
