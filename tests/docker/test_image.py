"""The image as an engine has it: what is in it, what is not, and when it is built at all."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import bases, buildx, image, pins
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
    command = [
        "sh",
        "-c",
        "find /var/log /var/lib/apt/lists /var/cache/apt/archives /tmp /root/.cache"
        " -type f 2>/dev/null; true",
    ]
    left = client.containers.run(built_image.id, command, remove=True).decode().split()
    assert [path for path in left if not path.endswith("/lock")] == []


def test_no_path_of_the_hosts_wheels(built_image: Image, client: DockerClient) -> None:
    folder = os.environ.get("PIP_FIND_LINKS")
    if not folder:
        folder = "/mnt/wheelhouse"  # where the build has them
    searched = ["grep", "-rIlF", "--", folder, "/etc", "/opt", "/root", "/var"]
    output = client.containers.run(
        built_image.id, ["sh", "-c", f"{' '.join(searched)} || true"], remove=True
    )
    assert output == b""
    assert folder not in json.dumps(client.images.get(built_image.id).history())


# --- no trace of the host's network settings ---

PASSWORDS = ("planted-proxy-password", "planted-index-password")
MARKS = (*PASSWORDS, "planted-ca-comment", "planted-apt-comment")

# The real installer takes minutes; this one also uses pip and the locks, for one small package,
# and pretends to the rest, since a later step compares versions.
INSTALLER = """
import os, pathlib, subprocess, sys
class Fault(Exception):
    output = ()
def install(venv, kind):
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    lock = "/mnt/project/docker/locks/requirements.txt"
    pip = [venv + "/bin/python", "-m", "pip", "install", "--require-hashes", "--no-deps"]
    subprocess.run([*pip, "-r", lock], check=True)
    site = next(pathlib.Path(venv, "lib").glob("python3*")) / "site-packages"
    for name, version in VERSIONS.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        (folder / "METADATA").write_text(text)
"""


class _Index(BaseHTTPRequestHandler):
    """An index that has nothing and remembers who asked."""

    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        if "Authorization" in self.headers:
            self.send_error(404)
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def index() -> Iterator[tuple[str, list[str | None]]]:
    asked: list[str | None] = []
    handler = type("Index", (_Index,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:{PASSWORDS[1]}@127.0.0.1:{server.server_port}/simple", asked
        server.shutdown()


def test_secrets_reach_the_build_and_leave_no_trace(
    endpoint: Endpoint,
    client: DockerClient,
    base_ref: str,
    tmp_path: Path,
    index: tuple[str, list[str | None]],
) -> None:
    url, asked = index
    root = copy_of_inputs(tmp_path)
    locked = pins.load().versions
    versions = {"torch": locked.torch, "apache_tvm": locked.tvm, "apache_tvm_ffi": locked.tvm_ffi}
    installer = f"VERSIONS = {versions!r}\n{INSTALLER}"
    (root / "bench" / "host" / "venv.py").write_text(installer)
    lock = root / "docker" / "locks" / "requirements.txt"
    package = re.search(r"^invoke==(.+\n)+?(?=\S)", lock.read_text(), re.MULTILINE)
    assert package is not None
    lock.write_text(package[0])
    bundle = tmp_path / "bundle.pem"
    real = os.environ.get("REQUESTS_CA_BUNDLE") or "/etc/ssl/certs/ca-certificates.crt"
    bundle.write_bytes(Path(real).read_bytes() + b"\n# planted-ca-comment\n")
    environ = {
        **os.environ,
        "PIP_CERT": str(bundle),
        "PIP_EXTRA_INDEX_URL": url,
        # Not used by anything here, so that the build goes on without such a proxy.
        "FTP_PROXY": f"http://me:{PASSWORDS[0]}@proxy.invalid:3128",
    }
    made = image.ensure(
        BuildRequest(base=base_ref, no_cache=True),
        pins.load(),
        endpoint,
        client,
        root=root,
        environ=environ,
    )
    try:
        assert made.built
        token = base64.b64encode(f"me:{PASSWORDS[1]}".encode()).decode()
        assert f"Basic {token}" in asked, "the index's address did not reach pip"
        archive = tmp_path / "image.tar"
        with archive.open("wb") as file:
            for chunk in client.images.get(made.id).save(named=True):
                file.write(chunk)
        marks = [*MARKS, token, "proxy.invalid", url.partition("@")[2], str(bundle)]
        members = 0
        with archive.open("rb") as file:
            for name, content in contents_of(file):
                members += 1
                for mark in marks:
                    assert mark.encode() not in content, f"{mark} is in {name}"
        assert members > 1000, "the layers were not looked into"
        told = json.dumps([client.images.get(made.id).attrs, client.images.get(made.id).history()])
        assert not any(mark in told for mark in marks)
    finally:
        client.images.remove(made.tag)


def contents_of(file: IO[bytes], prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Every file of an archive, and every file of the archives in it (an image's layers)."""
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            content = stream.read()
            name = f"{prefix}{member.name}"
            if not prefix and (layer := as_tar(content)) is not None:
                yield from contents_of(io.BytesIO(layer), f"{name}:")
            else:
                yield name, content


def as_tar(content: bytes) -> bytes | None:
    """The tar archive in a blob of a saved image, compressed or not; None for other blobs."""
    with contextlib.suppress(zlib.error):
        content = zlib.decompress(content, wbits=31) if content[:2] == b"\x1f\x8b" else content
    return content if content[257:262] == b"ustar" else None


def test_search_finds_what_is_there(built_image: Image) -> None:
    """The search above, on an archive that holds a mark in a compressed layer."""
    import gzip

    layer, outer = io.BytesIO(), io.BytesIO()
    for buffer, name, content in (
        (layer, "etc/secret", b"planted"),
        (outer, "blobs/sha256/1", None),
    ):
        data = gzip.compress(layer.getvalue()) if content is None else content
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    outer.seek(0)
    assert list(contents_of(outer)) == [("blobs/sha256/1:etc/secret", b"planted")]


# --- failures ---


def test_plain_build_without_a_registry_exits_2_and_says_what_works(
    client: DockerClient, base_ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address that no registry has, so that the test holds where a registry does answer.
    absent = "registry.invalid/debian:bookworm-slim@sha256:" + "0" * 64
    loaded = pins.load()
    profile = loaded.profile("cpu").model_copy(update={"base": absent})
    changed = loaded.model_copy(update={"profiles": {"cpu": profile}})
    with pytest.raises(UsageFault) as caught:
        image.plan(BuildRequest(), changed, client)
    assert caught.value.exit_code == 2
    assert "invoke base-image" in str(caught.value.hint)
    assert "invoke build-image --profile cpu" in str(caught.value.hint)
    named = image.plan(BuildRequest(profile="cpu"), changed, client)
    assert (named.base.ref, named.base.origin) == (base_ref, "made")


def test_failed_build_shows_the_steps_output_and_tags_nothing(
    endpoint: Endpoint, client: DockerClient, base_ref: str, tmp_path: Path
) -> None:
    root = copy_of_inputs(tmp_path)
    dockerfile = root / "docker" / "Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM ${BASE}\nRUN echo something odd; exit 9\n")
    request = BuildRequest(base=base_ref)
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
        "image.ensure(image.BuildRequest(base=sys.argv[1]), pins.load(), where, connect(where),"
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
    request = BuildRequest(base=base_ref)
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
    for path in image.inputs(image.ROOT, "cuda"):
        target = root / path.relative_to(image.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    shutil.copy2(image.ROOT / "pyproject.toml", root)
    return root
