"""Plans, content ids and base images, against an engine that is a dictionary."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import base_image, buildx, image
from bench.host.engine.endpoint import Endpoint
from bench.host.image import BuildRequest
from bench.host.pins import Pins, load

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
    for path in image.inputs(image.ROOT, "cuda"):
        target = tmp_path / path.relative_to(image.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    shutil.copy2(image.ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def content(root: Path, pins: Pins, base: str = "mine:1", profile: str = "cpu") -> str:
    request = BuildRequest(profile=profile, base=base)
    return image.plan(request, pins, client_with(base), root=root, environ={}).content_id


# --- the plan ---


def test_plan_carries_every_pin_as_label_and_no_secret(pins: Pins, root: Path) -> None:
    environ = {
        "HTTPS_PROXY": "http://me:hunter2@proxy.example",
        "PIP_INDEX_URL": "https://x.example",
    }
    made = image.plan(
        BuildRequest(base="mine:1"), pins, client_with("mine:1"), root=root, environ=environ
    )
    for key, value in pins.resolved("cpu").items():
        assert made.labels[f"io.gpt-frontend.pin.{key}"] == value
        assert f"io.gpt-frontend.pin.{key}={value}" in made.argv
    assert made.labels["io.gpt-frontend.base-id"] == "sha256:mine:1"
    assert made.tag == f"gpt-frontend:cpu-{made.content_id[:12]}"
    assert "hunter2" not in made.command and "x.example" not in made.command


def test_build_arguments_cover_the_dockerfiles(pins: Pins, root: Path) -> None:
    made = image.plan(BuildRequest(base="b"), pins, client_with("b"), root=root, environ={})
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
    assert given == declared
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
    request = BuildRequest(base="b", wheelhouse=tmp_path / "none")
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
        ".dockerignore",
    ],
)
def test_any_changed_input_gives_another_id(pins: Pins, root: Path, name: str) -> None:
    before = content(root, pins)
    with (root / name).open("a") as file:
        file.write("# changed\n")
    assert content(root, pins) != before


def test_added_file_and_executable_bit_count(pins: Pins, root: Path) -> None:
    first = content(root, pins)
    (root / "bench" / "job" / "added.py").touch()
    second = content(root, pins)
    (root / "bench" / "job" / "added.py").chmod(0o755)
    assert len({first, second, content(root, pins)}) == 3


def test_what_is_not_copied_does_not_count(pins: Pins, root: Path) -> None:
    before = content(root, pins)
    (root / "bench" / "host" / "report.py").write_text("changed")
    (root / "bench" / "job" / "__pycache__").mkdir(exist_ok=True)
    (root / "bench" / "job" / "__pycache__" / "gpt.pyc").write_bytes(b"bytecode")
    (root / "docker" / "locks" / "torch-cuda.txt").write_text("changed")  # not for this profile
    for path in root.rglob("*.py"):
        path.chmod(0o600)  # another umask
        os.utime(path, (0, 0))
    assert content(root, pins) == before


def test_base_profile_and_pins_count(pins: Pins, root: Path) -> None:
    versions = pins.versions.model_copy(update={"tvm": "0.0.1"})
    ids = {
        content(root, pins),
        content(root, pins, base="other:1"),
        content(root, pins, profile="cuda-wheels"),
        content(root, pins.model_copy(update={"versions": versions})),
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
    hashed = {path.relative_to(image.ROOT).as_posix() for path in image.inputs(image.ROOT, "cuda")}
    for name in hashed - {"docker/Dockerfile", ".dockerignore"}:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


# --- found, not rebuilt ---


def test_image_is_found_by_tag_and_label_without_buildx(
    pins: Pins, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_with("b")
    made = image.plan(BuildRequest(base="b"), pins, client, root=root, environ={})
    client.local[made.tag] = fake_image("sha256:found", **made.labels)
    monkeypatch.setattr(buildx, "run", lambda *_: pytest.fail("buildx was called"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    got = image.ensure(BuildRequest(base="b"), pins, ENDPOINT, client, root=root, environ={})
    assert (got.id, got.built) == ("sha256:found", False)


def test_tag_with_another_content_is_not_taken(pins: Pins, root: Path) -> None:
    client = client_with("b")
    made = image.plan(BuildRequest(base="b"), pins, client, root=root, environ={})
    client.local[made.tag] = fake_image("sha256:other", **{image.CONTENT_LABEL: "other"})
    assert image.find(made, client) is None


# --- the base ---


def test_plain_build_without_registry_names_what_would_work(pins: Pins) -> None:
    for client in (client_with(), client_with(pins.base_image.tag)):
        with pytest.raises(UsageFault) as caught:
            image.plan(BuildRequest(), pins, client, environ={})
        assert caught.value.exit_code == 2
        assert "invoke base-image" in str(caught.value.hint)
        assert "invoke build-image --profile cpu" in str(caught.value.hint)
        assert client.pulled == []


def test_made_base_stands_in_where_the_profile_was_named_or_bench_asks(pins: Pins) -> None:
    client = client_with(pins.base_image.tag)
    named = image.plan(BuildRequest(profile="cpu"), pins, client, environ={})
    asked = image.plan(BuildRequest(), pins, client, made_base=True, environ={})
    assert named.base.origin == asked.base.origin == "made"
    assert named.content_id == asked.content_id


def test_pinned_base_is_pulled_where_a_registry_answers(pins: Pins) -> None:
    ref = pins.profile("cpu").base
    client = client_with(pins.base_image.tag, registry={ref: ref.partition("@")[2]})
    dry = image.plan(BuildRequest(), pins, client, pull=False, environ={})
    assert client.pulled == []
    real = image.plan(BuildRequest(), pins, client, environ={})
    assert client.pulled == [ref]
    assert dry.content_id == real.content_id
    assert real.base.id == ref.partition("@")[2]


def test_named_base_is_never_replaced(pins: Pins) -> None:
    client = client_with(pins.base_image.tag, pins.profile("cpu").base)
    with pytest.raises(UsageFault, match="ubuntu:1"):
        image.plan(BuildRequest("cpu", "ubuntu:1"), pins, client, made_base=True, environ={})
    assert client.api.timeout == 60


# --- running buildx ---


def fake_docker(folder: Path, body: str) -> dict[str, str]:
    """A docker program of our own, first in the search path."""
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("#7 1.2 write /x: no space left on device", "docker system prune"),
        ("#7 1.2 SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')", "REQUESTS_CA_BUNDLE"),
        ("#7 1.2 Temporary failure resolving 'mirror.example'", "https_proxy"),
        ("#7 1.2 THESE PACKAGES DO NOT MATCH THE HASHES", "PIP_FIND_LINKS"),
    ],
)
def test_failed_build_shows_its_end_and_a_hint(tmp_path: Path, line: str, hint: str) -> None:
    environ = fake_docker(tmp_path, f'echo "#7 [image 2/6] RUN x"; echo "{line}" >&2; exit 17')
    steps: list[str] = []
    with pytest.raises(JobFailed) as caught:
        buildx.run(["docker"], tmp_path, environ, steps.append)
    assert caught.value.exit_code == 1
    assert "exit code 17" in caught.value.message
    assert line.removeprefix("#7 1.2 ") in caught.value.message
    assert hint in str(caught.value.hint)
    assert steps == ["[image 2/6] RUN x"]


def test_masked_words_are_shown_nowhere(tmp_path: Path) -> None:
    environ = fake_docker(tmp_path, 'echo "#1 [a] hunter2"; echo "#1 0.1 at hunter2"; exit 1')
    steps: list[str] = []
    with pytest.raises(JobFailed) as caught:
        buildx.run(["docker"], tmp_path, environ, steps.append, ["hunter2"])
    assert "hunter2" not in caught.value.message + "".join(steps)
    assert "****" in caught.value.message


def test_interrupt_stops_the_build_and_is_raised_again(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    body = (
        f"trap 'touch {stopped}; kill $pid; exit 1' INT\n"
        'sleep 60 & pid=$!\necho "#1 [a] started"\nwait'
    )
    environ = fake_docker(tmp_path, body)

    def interrupt(_: str) -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        buildx.run(["docker"], tmp_path, environ, interrupt)
    assert stopped.exists()


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            "#9 [image 3/6] RUN --mount=type=secret,id=ca <<'SHELL' (# Python packages...)",
            "[image 3/6] Python packages",
        ),
        (
            "#9 [project 2/4] COPY bench/*.py /project/bench/",
            "[project 2/4] COPY bench/*.py /project/bench/",
        ),
        ("#12 exporting to image", "exporting to image"),
        ("#12 exporting layers 38.5s done", None),
        ("#9 12.3 Get:1 http://mirror.example", None),
        ("#9 DONE 3.2s", None),
        ("#9 CACHED", None),
    ],
)
def test_step_names(line: str, step: str | None) -> None:
    assert buildx.step_name(line) == step


def test_missing_buildx_and_missing_docker_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="no buildx") as caught:
        buildx.check(fake_docker(tmp_path, "exit 1"))
    assert "docker-buildx" in str(caught.value.hint)
    with pytest.raises(UsageFault, match="docker program is missing"):
        buildx.check({"PATH": str(tmp_path / "empty")})


# --- the base image ---


def test_tree_keeps_nothing_of_the_machine(tmp_path: Path) -> None:
    files = {
        "etc/hostname": "builder",
        "etc/resolv.conf": "nameserver 192.0.2.1",
        "etc/machine-id": "abc",
        "etc/apt/sources.list": "deb http://mirror.internal/debian bookworm main",
        "var/log/bootstrap.log": "http://mirror.internal",
        "var/log/apt/term.log": "",
        "var/lib/apt/lists/mirror.internal_InRelease": "",
        "var/cache/apt/archives/x.deb": "http://mirror.internal",
        "usr/bin/true": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    base_image.clean(
        tmp_path, "bookworm", "http://mirror.internal/debian", "http://public.example/debian"
    )
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"etc/apt/sources.list", "etc/machine-id", "usr/bin/true"}
    assert (tmp_path / "etc/machine-id").read_text() == ""
    assert (tmp_path / "etc/apt/sources.list").read_text().splitlines() == [
        "deb http://public.example/debian bookworm main",
        "deb http://public.example/debian bookworm-updates main",
        "deb http://public.example/debian-security bookworm-security main",
    ]


def test_a_mirror_left_in_the_tree_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/odd.conf").write_text("see http://mirror.internal/debian")
    with pytest.raises(JobFailed, match=r"etc/odd\.conf"):
        base_image.clean(
            tmp_path, "bookworm", "http://mirror.internal/debian", "http://public.example"
        )


def test_base_image_needs_root_and_debootstrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, str | None] = {"docker": "docker", "debootstrap": None}
    monkeypatch.setattr(shutil, "which", lambda name, **_: found[name])
    with pytest.raises(UsageFault, match="debootstrap is not installed") as caught:
        base_image.make(ENDPOINT, None, print)
    assert "apt-get install" in str(caught.value.hint)
    found["debootstrap"] = str(tmp_path / "debootstrap")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageFault, match="root") as caught:
        base_image.make(ENDPOINT, None, print)
    assert "sudo" in str(caught.value.hint)


def test_public_mirror_is_debootstraps_own_default(tmp_path: Path) -> None:
    script = tmp_path / "debootstrap"
    script.write_text('#!/bin/sh\nDEF_MIRROR="http://public.example/debian/"\n')
    assert base_image.public_mirror(script) == "http://public.example/debian"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(UsageFault):
        base_image.public_mirror(script)


def test_mounts_are_listed_deepest_first(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 / /t/root/proc rw - proc p rw\n"
        "3 2 8:1 / /t/root/proc/sys rw - proc p rw\n4 1 8:1 / /to rw - tmpfs t rw\n"
    )
    assert base_image.mounts_under(Path("/t"), table) == ["/t/root/proc/sys", "/t/root/proc"]


def test_nothing_imports_the_sdk_at_import() -> None:
    code = "import sys, bench.host.image, bench.host.base_image; print('docker.api' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=image.ROOT
    )
    assert done.stdout.strip() == "False"
