"""Doctor's view of a real machine: commands, files, sockets, web servers, and this very host."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from bench.host import doctor
from bench.host.doctor import network, scene, web
from bench.host.doctor.container import PROBE
from bench.host.doctor.machine import MISSING, TIMED_OUT, RealHost
from bench.host.doctor.scene import Scene
from tests.unit.hosts.recorded import RecordedHost

DATE = "Mon, 23 Nov 2026 14:35:10 GMT"
Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a web server on loopback that answers every HEAD and CONNECT with one status."""
    servers = []

    def start(status: int, context: ssl.SSLContext | None = None) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response_only(status)
                self.send_header("Date", DATE)
                self.end_headers()

            do_CONNECT = do_HEAD  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody will: it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_any_status_is_an_answer_with_the_servers_clock(serve: Serve, status: int) -> None:
    answer = web.head(f"http://127.0.0.1:{serve(status)}/", 5, None, {})
    assert (answer.status, answer.error) == (status, "")
    assert answer.date == datetime(2026, 11, 23, 14, 35, 10, tzinfo=timezone.utc)
    assert answer.at is not None and answer.at.tzinfo is timezone.utc


def test_nobody_there_is_no_answer(closed_port: int) -> None:
    answer = web.head(f"http://127.0.0.1:{closed_port}/", 5, None, {})
    assert answer.status is None and "refused" in answer.error


def test_a_proxy_is_asked_and_its_refusal_told(serve: Serve) -> None:
    proxy = f"http://me:secret-word@127.0.0.1:{serve(407)}"
    environ = {"https_proxy": proxy, "HTTP_PROXY": proxy}
    tunnel = web.head("https://github.invalid/", 5, None, environ)
    assert tunnel.status is None and "407" in tunnel.error and "secret" not in tunnel.error
    assert web.head("http://github.invalid/", 5, None, environ).status == 407


def test_which_proxy_is_asked() -> None:
    environ = {"HTTPS_PROXY": "http://one:1", "all_proxy": "socks5://two:2", "no_proxy": ".local"}
    assert web.proxy_for("https://github.com", environ) == "http://one:1"
    assert web.proxy_for("http://github.com", environ) == "socks5://two:2"
    assert web.proxy_for("https://git.local", environ) is None
    assert web.head("http://github.com", 5, None, environ).error.startswith("not tried")


def test_a_certificate_is_judged_by_the_bundle_that_is_named(serve: Serve, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    request += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout", str(key)]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert)]
    subprocess.run(request, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    url = f"https://127.0.0.1:{serve(200, context)}/"
    assert web.head(url, 5, str(cert), {}).status == 200
    assert "CERTIFICATE_VERIFY_FAILED" in web.head(url, 5, None, {}).error
    assert str(key) in web.head(url, 5, str(key), {}).error


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pass@proxy:3128", "http://***@proxy:3128"),
        ("https://token@host/simple/", "https://***@host/simple/"),
        ("https://host/simple/", "https://host/simple/"),
        ("me:pa@ss@proxy:3128", "***@proxy:3128"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert web.shown(url) == shown


def test_commands_run_fail_hang_and_lack() -> None:
    host = RealHost()
    done = host.run(["python", "-c", "import sys; print(sys.executable); sys.exit(3)"])
    assert (done.code, done.out.strip()) == (3, sys.executable)
    assert host.run(["no-such-program-here"]).code == MISSING
    slow = host.run(["python", "-c", "import time; time.sleep(60)"], timeout=0.2)
    assert slow.code == TIMED_OUT and "no answer within 0.2 s" in slow.said
    assert host.run(["env"], environ={"PATH": os.environ["PATH"], "A": "b"}).out.count("A=b") == 1


def test_files_folders_modules_and_ports(tmp_path: Path, serve: Serve, closed_port: int) -> None:
    host = RealHost({"PATH": str(tmp_path)})
    (tmp_path / "text").write_bytes(b"caf\xe9")
    assert host.read(str(tmp_path / "text")) == "caf�"
    assert host.read(str(tmp_path)) is None and host.read(str(tmp_path / "none")) is None
    assert host.exists(str(tmp_path)) and not host.exists(str(tmp_path / "none"))
    assert host.which("text") is None
    (tmp_path / "text").chmod(0o755)
    assert host.which("text") == str(tmp_path / "text")
    room = host.free_bytes(str(tmp_path / "not" / "yet"))
    assert room is not None and room > 0
    assert host.importable("json.tool") and not host.importable("no_such_module.at_all")
    assert host.tcp("127.0.0.1", serve(200), 5) is None
    assert "refused" in (host.tcp("127.0.0.1", closed_port, 5) or "")


def test_a_server_that_never_answers_is_left_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()
    monkeypatch.setattr(scene, "NETWORK_LIMIT_S", 0.1)

    class Silent(RecordedHost):
        def http(self, url: str, timeout: float, ca_file: str | None) -> web.Answer:
            forever.wait()
            return web.Answer(200)

    looked = Scene(Silent.of("healthy", {"GPT_FRONTEND_CONFIG": os.devnull}))
    looked.ask(network.targets(looked))
    findings = network.check_reach(looked)
    forever.set()
    assert {finding.check for finding in findings} == {"git", "pip", "registry"}
    assert all("no answer in 0.1 s" in finding.seen for finding in findings)


def test_this_very_machine_is_examined_and_nothing_breaks(
    serve: Serve, closed_port: int, tmp_path: Path
) -> None:
    """With an engine that is gone, and a proxy that refuses: nothing leaves the machine."""
    proxy = f"http://me:secret-word@127.0.0.1:{serve(407)}"
    environ = {
        **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
        "DOCKER_HOST": f"tcp://127.0.0.1:{closed_port}",
        "https_proxy": proxy,
        "http_proxy": proxy,
        "GPT_FRONTEND_CONFIG": os.devnull,
        "REQUESTS_CA_BUNDLE": str(tmp_path / "none.pem"),
    }
    findings = doctor.examine(host=RealHost(environ))
    by_check = {finding.check: finding for finding in findings}
    assert not [one for one in findings if "could not be checked" in one.seen]
    assert "secret-word" not in repr(findings)
    assert by_check["engine"].level == "note" and "DOCKER_HOST" in by_check["engine"].remedy
    assert "407" in by_check["proxy"].seen
    assert any("none.pem" in one.seen for one in findings if one.check == "CA bundle")
    assert by_check["python"].level == by_check["g++"].level == "ok"
    assert all(one.why and one.remedy for one in findings if one.level != "ok")


CUDA_STUB = """
int cuInit(unsigned flags) { return RESULT; }
int cuDriverGetVersion(int* v) { *v = 13010; return 0; }
int cuDeviceGetCount(int* n) { *n = 2; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
    const char* said = "Some GPU"; int i = 0;
    for (; said[i] && i < size - 1; i++) name[i] = said[i];
    name[i] = 0; return 0;
}
int cuDeviceGetAttribute(int* value, int which, int device) {
    *value = which == 75 ? 9 : which == 76 ? device : -1; return 0;
}
"""


@pytest.mark.parametrize(
    ("result", "code", "said"),
    [
        (0, 0, "Some GPU, compute 9.0\nSome GPU, compute 9.1\nCUDA 13.1"),
        (803, 1, "cuInit returns 803"),
        (None, 1, "no libcuda.so.1 in the container"),
    ],
)
def test_the_probe_of_a_container_asks_the_drivers_library(
    tmp_path: Path, result: int | None, code: int, said: str
) -> None:
    if result is not None:
        source = tmp_path / "cuda.c"
        source.write_text(CUDA_STUB.replace("RESULT", str(result)))
        build = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)]
        subprocess.run(build, check=True)
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_a_name_that_is_looked_up_for_ever_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()

    def create_connection(address: object, timeout: float) -> socket.socket:
        forever.wait()
        raise OSError("too late for anybody")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    said = RealHost().tcp("proxy.invalid", 3128, 0.1)
    forever.set()
    assert said == "no answer in 0.1 s"
