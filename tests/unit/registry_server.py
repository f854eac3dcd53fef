"""An image registry and a package index on loopback, by their public protocols."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit import listening

INDEX = "application/vnd.oci.image.index.v1+json"


def manifest(words: str) -> bytes:
    """An index that differs with ``words``; what is in it is nobody's concern here."""
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "annotations": words}).encode()


def digest(words: str) -> str:
    return f"sha256:{hashlib.sha256(manifest(words)).hexdigest()}"


def sums(content: bytes | None) -> dict[str, str]:
    return {} if content is None else {"sha256": hashlib.sha256(content).hexdigest()}


def wheel(name: str, version: str, words: str = "") -> bytes:
    """The smallest wheel that a resolver takes."""
    base = f"{name.replace('-', '_')}-{version}.dist-info"
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(
            f"{base}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(f"{base}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{base}/RECORD", words)
    return held.getvalue()


@dataclass
class Registry:
    """``images``: repository to tag to words. ``projects``: package to its files.

    A file is (name, whether it was yanked). With ``token`` nothing is told without it.
    """

    images: dict[str, dict[str, str]] = field(default_factory=dict)
    projects: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    basic: bool = False  # wants a user and a password
    lies: bool = False  # names another digest than its answer has
    page: int = 100
    port: int = 0
    asked: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def index(self) -> str:
        return f"http://{self.host}/simple"

    def publish(self, name: str, *versions: str, yanked: bool = False) -> None:
        """Put wheels of a package on the index."""
        for version in versions:
            file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
            self.files[f"/files/{file}"] = wheel(name, version)
            self.projects.setdefault(name, []).append((file, yanked))


@contextlib.contextmanager
def serving(state: Registry) -> Iterator[Registry]:
    class Handler(listening.Replies):
        def do_GET(self) -> None:  # noqa: N802 -- the library's name
            state.asked.append(self.path)
            state.credentials.append(self.headers.get("Authorization"))
            parts = urlsplit(self.path)
            if parts.path == "/token":
                scope = parse_qs(parts.query)["scope"][0]
                assert scope.startswith("repository:") and scope.endswith(":pull")
                self.reply(json.dumps({"token": state.token}).encode())
            elif parts.path.startswith("/v2/"):
                self.registry(parts.path, parse_qs(parts.query))
            elif parts.path.startswith("/simple/"):
                self.project(parts.path.split("/")[2])
            elif parts.path in state.files:
                self.reply(state.files[parts.path])
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 -- the library's name

        def registry(self, path: str, query: dict[str, list[str]]) -> None:
            if state.basic:
                self.challenge('Basic realm="registry"')
                return
            name = path.removeprefix("/v2/").split("/manifests/")[0].removesuffix("/tags/list")
            if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
                realm = f'realm="http://{state.host}/token",service="here"'
                self.challenge(f'Bearer {realm},scope="repository:{name}:pull"')
                return
            tags = state.images.get(name, {})
            if path.endswith("/tags/list"):
                names = sorted(tags)
                start = names.index(query["last"][0]) + 1 if "last" in query else 0
                some = names[start : start + state.page]
                more = {}
                if start + state.page < len(names):
                    more = {"link": f'</v2/{name}/tags/list?last={some[-1]}>; rel="next"'}
                self.reply(json.dumps({"name": name, "tags": some}).encode(), more)
            elif (tag := path.rpartition("/")[2]) in tags:
                assert INDEX in self.headers["Accept"]
                told = digest("another" if state.lies else tags[tag])
                # Some proxies write every header small.
                kind = {"Content-Type": INDEX, "docker-content-digest": told}
                self.reply(manifest(tags[tag]), kind)
            else:
                self.send_error(404)

        def project(self, name: str) -> None:
            if name not in state.projects:
                self.send_error(404)
                return
            assert "application/vnd.pypi.simple.v1+json" in self.headers["Accept"]
            files: list[dict[str, Any]] = [
                {
                    "filename": file,
                    "yanked": yanked,
                    "url": f"http://{state.host}/files/{file}",
                    "hashes": sums(state.files.get(f"/files/{file}")),
                }
                for file, yanked in state.projects[name]
            ]
            kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
            self.reply(json.dumps({"name": name, "files": files}).encode(), kind)

    with listening.on_loopback(Handler) as server:
        state.port = server.server_port
        yield state
