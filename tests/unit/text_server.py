"""A web server on this machine that hands out a text, or part of it, and notes the requests."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.unit import listening


@dataclass
class TextServer:
    """``statuses`` are answered, and ``cuts`` end an answer early, one a request, then no more."""

    content: bytes
    port: int = 0
    asked: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/texts/input.txt"


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[TextServer]:
    state = TextServer(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted or "")
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            start, size = int(found[1]) if found else 0, len(state.content)
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else size
            self.wfile.write(state.content[start:end])

        def log_message(self, format: str, *args: object) -> None:
            """Tests print what they want to see."""

    with listening.on_loopback(Handler) as server:
        state.port = server.server_port
        yield state
