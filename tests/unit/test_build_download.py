"""A file by checksum from a real server that cuts, resumes, refuses and lies."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.build.fetch.fault import Fault
from bench.build.fetch.unpack import unpack
from tests.conftest import ROOT

CONTENT = bytes(range(256)) * 12_000  # 3 MB: cuts of more than 1 MiB count as progress
SUM = hashlib.sha256(CONTENT).hexdigest()
NAME = "clang+llvm.tar.xz"
PUBLIC = "https://code.example/releases/"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass
class Server:
    content: bytes = CONTENT
    port: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range
    cuts: list[int] = field(default_factory=list)  # bytes that an answer ends after
    statuses: list[int] = field(default_factory=list)  # answered in place of the file
    ranges: bool = True
    users: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{NAME}"

    @property
    def starts(self) -> list[str | None]:
        return [start for _, start in self.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            state.users += self.headers.get_all("Authorization", [])
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start, size = 0, len(state.content)
            if wanted and state.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else size
            with contextlib.suppress(ConnectionError):
                self.wfile.write(state.content[start:end])

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run(server: Server, tmp_path: Path, environ: dict[str, str]) -> Run:
    def call(*more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "bench.build.fetch.download", "--url", server.url]
        argv += ["--sha256", SUM, "--into", str(tmp_path / "file"), "--pause", "0.01"]
        done = subprocess.run(
            [*argv, "--cache", str(tmp_path / "cache"), *more],
            env=environ | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def test_a_second_download_asks_nothing_but_verifies(
    run: Run, server: Server, tmp_path: Path
) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert "3.1 of 3.1 MB (100%)" in done.stdout
    assert run("--into", str(tmp_path / "second")).returncode == 0
    assert (tmp_path / "second").read_bytes() == CONTENT
    assert len(server.asked) == 1
    cached = next(path for path in (tmp_path / "cache").iterdir() if path.suffix == ".xz")
    cached.write_bytes(CONTENT[:-1] + b"?")
    done = run()
    assert done.returncode == 0 and "damaged" in done.stdout
    assert len(server.asked) == 2
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_cut_download_goes_on_where_it_was(run: Run, server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 500_000]
    done = run()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.starts == [None, "bytes=1000000-", "bytes=1500000-"]
    assert "the connection ended after 1.0 of 3.1 MB (32%)" in done.stdout


def test_what_an_earlier_run_had_is_continued(run: Run, server: Server, tmp_path: Path) -> None:
    server.cuts = [700_000]
    failed = run("--attempts", "1")
    assert failed.returncode == 1 and "given up after 1 attempts" in failed.stderr
    assert not (tmp_path / "file").exists()
    assert run().returncode == 0
    assert server.starts == [None, "bytes=700000-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_many_cuts_do_not_use_up_the_attempts_while_it_gets_on(
    run: Run, server: Server, tmp_path: Path
) -> None:
    server.cuts = [1_100_000, 1_100_000]
    assert run("--attempts", "1").returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it_again(
    run: Run, server: Server, tmp_path: Path
) -> None:
    server.ranges, server.cuts = False, [1_000_000]
    assert run().returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_checksum_names_both_and_leaves_no_file(
    run: Run, server: Server, tmp_path: Path
) -> None:
    wrong = "0" * 64
    done = run("--sha256", wrong)
    assert done.returncode == 1
    assert f"error: {server.url}: wrong checksum: sha256 {SUM}, expected {wrong}" in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "file").exists()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("content", [b"something else" * 10, CONTENT + b"more"])
def test_a_leftover_of_another_file_is_not_trusted(
    run: Run, server: Server, tmp_path: Path, content: bytes
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{SUM[:16]}-{NAME}.part").write_bytes(content)
    done = run()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_leftover_that_is_whole_is_taken_as_it_is(
    run: Run, server: Server, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{SUM[:16]}-{NAME}.part").write_bytes(CONTENT)
    assert run().returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_overloaded_server_is_asked_again_a_missing_file_is_not(
    run: Run, server: Server, tmp_path: Path
) -> None:
    server.statuses = [503, 429]
    done = run()
    assert done.returncode == 0 and "the server answered 503" in done.stdout
    server.statuses, server.asked = [404], []
    done = run("--cache", str(tmp_path / "other"))
    assert done.returncode == 1 and len(server.asked) == 1
    assert "the server answered 404" in done.stderr and "docker/pins.toml" in done.stderr


def test_a_mirror_is_asked_and_the_public_address_is_told(
    run: Run, server: Server, tmp_path: Path
) -> None:
    mirrors = {"https://code.example/": f"http://me:hunter2@127.0.0.1:{server.port}/m/"}
    done = run("--url", f"{PUBLIC}{NAME}", GPT_FRONTEND_URL_MIRRORS=json.dumps(mirrors))
    assert done.returncode == 0, done.stderr
    assert server.asked == [(f"/m/releases/{NAME}", None)]
    assert server.users == ["Basic " + base64.b64encode(b"me:hunter2").decode()]
    assert "hunter2" not in done.stdout + done.stderr
    done = run("--url", f"{PUBLIC}x", "--sha256", "1" * 64, GPT_FRONTEND_URL_MIRRORS="{")
    assert done.returncode == 1 and "is not a JSON object" in done.stderr


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_proxies_of_the_environment_are_used(
    run: Run, server: Server, tmp_path: Path, variable: str
) -> None:
    proxy = {variable: f"http://127.0.0.1:{server.port}"}
    done = run("--url", f"http://nowhere.example/{NAME}", **proxy)
    assert done.returncode == 0, done.stderr
    assert server.asked[0][0] == f"http://nowhere.example/{NAME}"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_socks_proxy_is_refused_with_what_to_do(run: Run, server: Server) -> None:
    done = run(ALL_PROXY="socks5h://me:hunter2@127.0.0.1:1080")
    assert done.returncode == 1 and "speaks no SOCKS" in done.stderr
    assert "hint: name the proxy's HTTP port" in done.stderr and "hunter2" not in done.stderr
    assert server.asked == []


def test_a_bundle_that_is_not_there_is_named(run: Run) -> None:
    done = run(SSL_CERT_FILE="/nowhere/ca.pem")
    assert done.returncode == 1 and "SSL_CERT_FILE=/nowhere/ca.pem is not a file" in done.stderr


def archive(path: Path, *members: tuple[str, str]) -> Path:
    """An archive of files (name, text) and links (name, ``->target`` or ``=>target``)."""
    with tarfile.open(path, "w:xz") as tar:
        for name, text in members:
            member = tarfile.TarInfo(name)
            member.uid, member.mode = 1234, 0o4755
            if text.startswith(("->", "=>")):
                member.type = tarfile.SYMTYPE if text.startswith("->") else tarfile.LNKTYPE
                member.linkname = text[2:]
            elif text == "fifo":
                member.type = tarfile.FIFOTYPE
            member.size = len(text) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_an_archive_is_downloaded_and_unpacked(run: Run, server: Server, tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tar.xz",
        ("llvm/bin/clang-10", "program"),
        ("./llvm/bin/clang", "->clang-10"),
        ("llvm/lib/same", "=>llvm/bin/clang-10"),
        ("llvm/bin/up", "->../lib/same"),
    )
    server.content = path.read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    into = ("--unpack", str(tmp_path / "opt"), "--folder", "llvm")
    done = run("--sha256", digest, *into)
    assert done.returncode == 0, done.stderr
    for name in ("bin/clang-10", "bin/clang", "lib/same", "bin/up"):
        assert (tmp_path / "opt" / "llvm" / name).read_text() == "program"
    status = (tmp_path / "opt" / "llvm" / "bin" / "clang-10").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (os.getuid(), 0o755)
    assert os.listdir(tmp_path / "opt") == ["llvm"]
    done = run("--sha256", digest, *into)
    assert done.returncode == 1 and "is there already" in done.stderr
    done = run("--sha256", digest, "--unpack", str(tmp_path / "opt2"), "--folder", "clang")
    assert done.returncode == 1
    assert "the archive's folder is llvm, not clang" in done.stderr
    assert os.listdir(tmp_path / "opt2") == []


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/passwd", "x")],
        [("llvm/../../out", "x")],
        [("other/file", "x")],
        [("llvm/link", "->/etc"), ("llvm/link/file", "x")],
        [("llvm/link", "->../../etc")],
        [("llvm/link", "=>../etc/passwd")],
        [("llvm/in", "->."), ("llvm/in/file", "x")],
        [("llvm/file", "->other"), ("llvm/file", "x")],
        [("llvm/pipe", "fifo")],
        [],
    ],
)
def test_an_archive_that_leads_out_of_its_folder(
    tmp_path: Path, members: list[tuple[str, str]]
) -> None:
    path = archive(tmp_path / "a.tar.xz", *members)
    with pytest.raises(Fault):
        unpack(path, tmp_path / "into", "llvm", lambda _: None)
    assert os.listdir(tmp_path / "into") == []
    assert set(os.listdir(tmp_path)) == {"a.tar.xz", "into"}


def test_a_damaged_archive_is_told_as_such(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.xz", ("llvm/file", "text" * 1000))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Fault, match="cannot be unpacked"):
        unpack(path, tmp_path / "into", "llvm", lambda _: None)
    assert os.listdir(tmp_path / "into") == []
