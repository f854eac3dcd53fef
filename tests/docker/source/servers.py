"""Servers of the test's own, on the address at which a build reaches the host.

    serve_forge   git's smart HTTP protocol, by git's own http-backend, and files, with ranges
    serve_proxy   a forward proxy that may ask for a password and knows names that nobody else does

Each counts what it was asked and can be told to break answers off.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

CHUNK = 1 << 16
PROXY_TIMEOUT_S = 60


@dataclass
class Cut:
    """Breaks the first ``times`` answers to paths that ``pattern`` finds, after ``after`` bytes."""

    pattern: str
    times: int
    after: int


@dataclass
class Log:
    """What a server was asked, as "METHOD /path"; and its orders to break answers off."""

    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def matching(self, pattern: str) -> list[str]:
        """Those of ``asked`` in which the pattern is found."""
        with self.lock:
            return [line for line in self.asked if re.search(pattern, line)]

    def note(self, line: str) -> int | None:
        """Take a request down; gives after how many bytes its answer is to be broken off."""
        with self.lock:
            self.asked.append(line)
            for cut in self.cuts:
                if cut.times > 0 and re.search(cut.pattern, line):
                    cut.times -= 1
                    return cut.after
        return None


class _Handler(BaseHTTPRequestHandler):
    log: Log

    def log_message(self, format: str, *args: object) -> None:
        return

    def send_body(self, chunks: Iterator[bytes], limit: int | None) -> None:
        """Send a body; where there is a limit, only so much, and then nothing: a dead peer."""
        for chunk in chunks:
            if limit is not None and len(chunk) >= limit:
                self.wfile.write(chunk[:limit])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            limit = None if limit is None else limit - len(chunk)
            self.wfile.write(chunk)

    def body(self) -> bytes:
        """The request's body, whichever way its end is told."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


class _Forge(_Handler):
    root: Path
    files: Mapping[str, Path]
    prefix: str

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        line = f"{self.command} {self.path}"
        if "Range" in self.headers:
            line += f" {self.headers['Range']}"
        limit = self.log.note(line)
        path, _, query = self.path.partition("?")
        if not path.startswith(self.prefix):
            self.send_error(404)
        elif (file := self.files.get(path.removeprefix(self.prefix))) is not None:
            self.send_file(file, limit)
        else:
            self.send_git(path.removeprefix(self.prefix), query, limit)

    def send_file(self, file: Path, limit: int | None) -> None:
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if start >= size:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if self.command == "GET":
            with file.open("rb") as stream:
                stream.seek(start)
                self.send_body(iter(lambda: stream.read(CHUNK), b""), limit)

    def send_git(self, path: str, query: str, limit: int | None) -> None:
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",  # the repositories may belong to somebody else
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": f"/{path}",
            "QUERY_STRING": query,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=self.body(), env=environ, capture_output=True
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = [line.partition(":")[::2] for line in head.decode().splitlines()]
        status = dict(headers).get("Status", "200").split()[0]
        self.send_response(int(status))
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value.strip())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.send_body(iter([body]), limit)


class _Proxy(_Handler):
    names: Mapping[str, str]
    secret: str | None
    hop: ClassVar[tuple[str, ...]] = ("connection", "proxy-authorization", "proxy-connection")

    def do_GET(self) -> None:
        self.forward()

    def do_HEAD(self) -> None:
        self.forward()

    def do_POST(self) -> None:
        self.forward()

    def admitted(self) -> bool:
        if self.secret is None or self.headers.get("Proxy-Authorization") == f"Basic {self.secret}":
            return True
        self.log.refused.append(f"{self.command} {self.path}")
        self.send_response(407)
        self.send_header("Proxy-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def place(self, authority: str, port: int) -> tuple[str, int]:
        """Where a host is: as the proxy's own names say, else as everybody's do."""
        split = urlsplit(f"//{self.names.get(authority, authority)}")
        return split.hostname or "", split.port or port

    def forward(self) -> None:
        body = self.body()
        if not self.admitted():
            return
        self.log.note(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        host, port = self.place(url.netloc, 80)
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in (*self.hop, "transfer-encoding", "content-length")
        }
        upstream = HTTPConnection(host, port, timeout=PROXY_TIMEOUT_S)
        try:
            upstream.request(
                self.command, self.path.partition(url.netloc)[2] or "/", body or None, kept
            )
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (*self.hop, "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.send_body(iter(lambda: answer.read(CHUNK), b""), None)
        except OSError as error:
            self.send_error(502, str(error))
        finally:
            upstream.close()

    def do_CONNECT(self) -> None:
        if not self.admitted():
            return
        self.log.note(f"CONNECT {self.path}")
        try:
            upstream = socket.create_connection(self.place(self.path, 443), PROXY_TIMEOUT_S)
        except OSError as error:
            self.send_error(502, str(error))
            return
        self.send_response(200)
        self.end_headers()
        with upstream:
            other = threading.Thread(target=pump, args=(upstream, self.connection), daemon=True)
            other.start()
            pump(self.connection, upstream)
            other.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends, and tell the sink so."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Server:
    """One that runs. ``authority`` is host:port."""

    authority: str
    log: Log

    @property
    def url(self) -> str:
        return f"http://{self.authority}"


class _Quiet(ThreadingHTTPServer):
    """Clients that hang up, or refuse a certificate, are what is tested here."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextlib.contextmanager
def _running(
    address: str,
    handler: type[_Handler],
    attributes: Mapping[str, object],
    context: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    log = Log()
    kind = type(handler.__name__, (handler,), {**attributes, "log": log})
    with _Quiet((address, 0), kind) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Server(f"{address}:{server.server_port}", log)
        finally:
            server.shutdown()
            thread.join()


def serve_forge(
    address: str,
    root: Path,
    files: Mapping[str, Path],
    prefix: str = "/",
    context: ssl.SSLContext | None = None,
) -> contextlib.AbstractContextManager[Server]:
    """As a code host does: the bare repositories under a folder, and files by their path."""
    return _running(address, _Forge, {"root": root, "files": files, "prefix": prefix}, context)


def serve_proxy(
    address: str, names: Mapping[str, str] | None = None, login: str | None = None
) -> contextlib.AbstractContextManager[Server]:
    """A forward proxy. ``names`` maps host[:port] to host:port; ``login`` is user:password."""
    secret = base64.b64encode(login.encode()).decode() if login else None
    return _running(address, _Proxy, {"names": names or {}, "secret": secret})
