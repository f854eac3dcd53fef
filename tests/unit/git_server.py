"""A git server on loopback: real repositories by `git http-backend`, with failures on demand."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CODE = "https://code.example"
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A"), ("EMAIL", "a@code.example"), ("DATE", "1700000000 +0000"))
}


def git(*args: str, cwd: Path) -> str:
    """git without anybody's configuration; what it prints."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C", **IDENTITY}
    environ["GIT_CONFIG_GLOBAL"] = os.devnull
    argv = ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", *args]
    done = subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout.strip()


@dataclass
class Origin:
    """Repositories laid out as TVM's are; ``commits`` by repository.

    tvm records 3rdparty/ffi (by ../ffi.git) and 3rdparty/rang (by its whole URL); ffi records
    3rdparty/dlpack (by ../dlpack.git). The recorded commits are not the tips of any branch.
    """

    root: Path
    commits: dict[str, str]

    @property
    def gitlinks(self) -> dict[str, str]:
        return {
            "3rdparty/ffi": self.commits["ffi"],
            "3rdparty/ffi/3rdparty/dlpack": self.commits["dlpack"],
            "3rdparty/rang": self.commits["rang"],
        }


def make_origin(root: Path) -> Origin:
    commits: dict[str, str] = {}
    links = {
        "dlpack": {},
        "rang": {},
        "ffi": {"3rdparty/dlpack": ("dlpack", "../dlpack.git")},
        "tvm": {
            "3rdparty/ffi": ("ffi", "../ffi.git"),
            "3rdparty/rang": ("rang", f"{CODE}/lib/rang"),
        },
    }
    for name, inner in links.items():
        work = root / "work" / name
        work.mkdir(parents=True)
        git("init", "-q", ".", cwd=work)
        (work / f"{name}.txt").write_text(f"{name}\n" * 100)
        # Not to be packed into nothing: what is cut has to be longer than the cut.
        (work / "noise.bin").write_bytes(os.urandom(60_000))
        modules = ""
        for path, (other, url) in inner.items():
            modules += f'[submodule "{other}"]\n\tpath = {path}\n\turl = {url}\n'
            git("update-index", "--add", "--cacheinfo", f"160000,{commits[other]},{path}", cwd=work)
        if modules:
            (work / ".gitmodules").write_text(modules)
            git("add", ".gitmodules", cwd=work)
        git("add", f"{name}.txt", "noise.bin", cwd=work)
        git("commit", "-q", "-m", "one", cwd=work)
        commits[name] = git("rev-parse", "HEAD", cwd=work)
        git("commit", "-q", "--allow-empty", "-m", "later", cwd=work)
        bare = root / "lib" / f"{name}.git"
        git("clone", "-q", "--bare", str(work), str(bare), cwd=root)
        git("update-server-info", cwd=bare)
    return Origin(root, commits)


@dataclass
class Server:
    """What is served, what was asked, and what goes wrong next."""

    root: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)
    # Each is taken by one fetch of objects: given the answer's body, what is sent of it.
    trouble: list[Callable[[bytes], bytes]] = field(default_factory=list)
    refuses: int = 0  # so many requests are answered 503
    old: bool = False  # git's protocol 0 only: nothing but branches and tags
    dumb: bool = False  # files only
    hang: threading.Event | None = None  # objects are half sent, then nothing until it is set
    hanging: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """The repositories that objects were asked of, one entry an attempt."""
        return [path.split("/")[2] for path in self.asked if path.startswith("POST")]


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    state = Server(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            # Protocol 2 asks for the list of refs by POST as well: only a fetch is one of objects.
            fetch = self.command == "POST" and b"command=ls-refs" not in body
            with state.lock:
                state.asked.append(f"{'POST' if fetch else 'GET'} {path}")
                refuse, state.refuses = state.refuses > 0, max(state.refuses - 1, 0)
                trouble = state.trouble.pop(0) if fetch and state.trouble else None
            if refuse:
                self.send_error(503)
            elif state.dumb:
                file = root / path.lstrip("/")
                self.reply(200 if file.is_file() else 404, [], file.is_file() and file.read_bytes())
            else:
                self.backend(path, query, body, fetch, trouble)

        def backend(
            self,
            path: str,
            query: str,
            body: bytes,
            fetch: bool,
            trouble: Callable[[bytes], bytes] | None,
        ) -> None:
            environ = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }
            if not state.old:
                environ["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
            done = subprocess.run(
                ["git", "http-backend"], env=environ, input=body, capture_output=True
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
            status = next((int(v.split()[0]) for k, v in headers if k == "Status"), 200)
            pairs = [(key, value) for key, value in headers if key != "Status"]
            if fetch and state.hang is not None and len(content) > 10_000:
                self.reply(status, pairs, content[:10_000], len(content))
                state.hanging.set()
                state.hang.wait()
            else:
                self.reply(status, pairs, trouble(content) if trouble else content, len(content))

        def reply(
            self, status: int, headers: list[tuple[str, str]], content: bytes | bool, of: int = -1
        ) -> None:
            content = content or b""
            assert isinstance(content, bytes)
            self.send_response(status)
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(of if of >= 0 else len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = of > len(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        if state.hang is not None:
            state.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()
