"""A hub on loopback, laid out as Hugging Face's: what it holds, what it was asked, how it fails."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.unit import listening

COMMIT = "a" * 40
OTHER = "b" * 40


def blob(content: bytes) -> str:
    """Git's own sum of a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Hub:
    """One repository, ``owner/tiny``, whose branch main is at COMMIT.

    Large files lie elsewhere, behind a redirect, as in the real one.
    """

    repo: str = "owner/tiny"
    files: dict[str, bytes] = field(default_factory=dict)
    stated: dict[str, str] = field(default_factory=dict)  # other checksums than the true ones
    unstated: set[str] = field(default_factory=set)  # files without any checksum
    cuts: list[int] = field(default_factory=list)  # bytes after which a large file ends
    statuses: list[int] = field(default_factory=list)  # answered in place of a listing
    codes: dict[str, str] = field(default_factory=dict)  # X-Error-Code by repository
    renamed: dict[str, str] = field(default_factory=dict)
    answer: bytes | None = None  # in place of a listing
    sha: str = COMMIT
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def listing(self) -> bytes:
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content)}
            if name not in self.unstated:
                entry["blobId"] = blob(content) if not large(name) else "c" * 40
                if large(name):
                    sha256 = self.stated.get(name) or hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                elif name in self.stated:
                    entry["blobId"] = self.stated[name]
            siblings.append(entry)
        told = {"_id": "1", "id": self.repo, "modelId": self.repo, "private": False, "tags": []}
        told |= {"downloads": 0, "sha": self.sha, "siblings": siblings}
        return json.dumps(told).encode()


def large(name: str) -> bool:
    """Whether the hub keeps a file of this name outside git."""
    return name.endswith((".safetensors", ".bin"))


@contextlib.contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub, answering while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((path, self.headers.get("Range")))
            hub.headers.append(dict(self.headers))
            moved = next((old for old in hub.renamed if re.search(rf"/{old}/re", path)), None)
            if moved and hub.renamed[moved] not in path:
                self.send_response(307)
                new = self.path.replace(f"/{moved}/re", f"/{hub.renamed[moved]}/re", 1)
                self.send_header("Location", new)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif listing := re.fullmatch(r"/api/models/(.+?)/revision/(.+)", path):
                self._list(*listing.groups())
            elif file := re.fullmatch(rf"/{hub.repo}/resolve/{hub.sha}/([^/]+)", path):
                name = file[1]
                if name not in hub.files:
                    self.send_error(404)
                elif large(name):
                    self.send_response(302)
                    self.send_header("Location", f"{hub.url}/large/{name}?signed=1")
                    self.end_headers()
                else:
                    self._send(hub.files[name])
            elif path.startswith("/large/"):
                self._large(hub.files[path.removeprefix("/large/")])
            else:
                self.send_error(404)

        def _list(self, repo: str, revision: str) -> None:
            code = hub.codes.get(repo)
            if hub.statuses:
                self.send_error(hub.statuses.pop(0))
            elif repo != hub.repo or code:
                # The real one does not tell a private repository from none.
                self.send_response(403 if code else 401)
                self.send_header("X-Error-Code", code or "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif revision not in ("main", hub.sha):
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send(hub.answer or hub.listing())

        def _large(self, content: bytes) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(found[1]) if found else 0
            self.send_response(206 if found else 200)
            if found:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + hub.cuts.pop(0) if hub.cuts else len(content)
            self.wfile.write(content[start:end])

        def _send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with listening.on_loopback(Handler) as server:
        hub.port = server.server_port
        yield hub
