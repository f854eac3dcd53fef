"""The host's network settings reach a build, and nothing of them is in what it makes."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import tarfile
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from bench.host import pins, verify
from bench.host.engine.endpoint import Endpoint
from bench.host.image import BuildRequest
from bench.host.supply import building, contents, obtain, sbom
from tests.docker.test_image import copy_of_inputs

if TYPE_CHECKING:
    from docker import DockerClient

PASSWORDS = ("planted-proxy-password", "planted-index-password")
MARKS = (*PASSWORDS, "planted-ca-comment", "planted-apt-comment")

# The real installer takes minutes; this one also uses pip and the locks, for one small package,
# and pretends to the rest, since a later step compares versions.
INSTALLER = """
import os, pathlib, subprocess, sys
class Fault(Exception):
    output = ()
def install(venv, kind, tvm):
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The quick installer brings no torch to keep a contract with.
    for name in ("verify", "write", "demand"):
        monkeypatch.setattr(verify, name, lambda *_, **__: None)
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
    beside = tmp_path / "contracts"
    made = building.ensure(
        BuildRequest("cpu", base_ref, no_cache=True),
        pins.load(),
        endpoint,
        client,
        root=root,
        environ=environ,
        folder=beside,
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
        listed = contents.ask(client, made.id, folder=beside)
        reference = obtain.reference(client.images.get(made.id), made.tag)
        bill = sbom.Bill(reference, sbom.created(""), listed, pins.load())
        written = [sbom.write(bill, form) for form in sbom.FORMATS]
        written += [path.read_text() for path in beside.iterdir() if path.is_file()]
        assert len(written) == len(sbom.FORMATS) + 1, "there is no provenance"
        assert '"invoke"' in written[0], "the package that was installed is not in the bill"
        for text in written:
            assert not any(mark in text for mark in marks)
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


def test_search_finds_what_is_there() -> None:
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
