"""What setup checks and decides before it installs anything."""

import ast
import importlib.util
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from bench.host import venv

SCRIPT = Path(venv.__file__)
VERSION = venv.torch_version()


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def test_an_old_python_can_read_the_script() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    for annotation in annotations(tree):
        # list[str] and str | None parse on 3.6, and fail there when the function is defined.
        assert not isinstance(annotation, ast.Subscript | ast.BinOp), ast.unparse(annotation)


def test_the_script_needs_only_the_standard_library() -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module))
    assert "argparse" in names
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", [(3, 6), (3, 9), (3, 14), (4, 0)])
def test_an_unsupported_python_is_named(version: tuple[int, int]) -> None:
    with pytest.raises(venv.Fault) as caught:
        venv.check_python(version, "/opt/python")
    number = f"{version[0]}.{version[1]}"
    assert str(caught.value) == (f"Python 3.10 to 3.13 is needed, this is {number} (/opt/python)")
    assert "make setup PYTHON=" in caught.value.hint


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_the_supported_pythons_pass(minor: int) -> None:
    venv.check_python((3, minor, 1), "/opt/python")


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [
        ("Darwin", "arm64", ""),
        ("Linux", "riscv64", "glibc 2.36"),
        ("Linux", "x86_64", "glibc 2.27"),
        ("Linux", "x86_64", ""),  # musl
    ],
)
def test_a_machine_without_wheels_is_named(system: str, machine: str, libc: str) -> None:
    with pytest.raises(venv.Fault, match="no wheels of TVM and torch") as caught:
        venv.check_platform(system, machine, libc)
    assert machine in str(caught.value)
    assert "glibc 2.28" in caught.value.hint


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("libc", ["glibc 2.28", "glibc 2.41", "glibc 3.1"])
def test_a_machine_with_wheels_passes(machine: str, libc: str) -> None:
    venv.check_platform("Linux", machine, libc)


def test_missing_programs_stop_setup_at_once(tmp_path: Path) -> None:
    empty, place = tmp_path / "bin", tmp_path / "venv"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--venv", str(place)],
        env={"PATH": str(empty)},
        capture_output=True,
        text=True,
    )
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert error == "error: missing: git, g++"
    assert "apt-get install -y git make python3" in hint
    assert hint.startswith("hint: sudo ") == (os.geteuid() != 0)
    assert not place.exists()


def test_a_python_without_ensurepip_or_headers_is_told_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(venv, "apt_python", lambda: "python3.12")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(venv.Fault) as caught:
        venv.check_prerequisites()
    assert str(caught.value) == "missing: python3.12-venv, python3.12-dev"
    assert caught.value.hint.endswith("make python3.12 python3.12-venv python3.12-dev g++")


# --- pip's settings, and the wheel they lead to ---


def test_pip_settings_come_from_files_and_variables() -> None:
    listing = (
        ":env:.find-links='/variable'\n"
        "global.cert='/a/ca.pem'\n"
        "global.find-links='/one\\n/two'\n"
        "download.find-links='/not-for-install'\n"
        "install.no-index='true'\n"
    )
    links, no_index = venv.pip_settings(listing)
    assert sorted(links) == ["/one", "/two", "/variable"]
    assert no_index
    assert venv.pip_settings("global.no-index='false'\nWARNING: odd=line\n") == ([], False)


def test_pip_settings_understands_the_real_pip(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={**os.environ, "PIP_FIND_LINKS": f"{tmp_path} /elsewhere", "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    links, no_index = venv.pip_settings(done.stdout)
    assert {str(tmp_path), "/elsewhere"} <= set(links)
    assert no_index


def wheel_name(tag: str = "cp311", machine: str = "x86_64", build: str = "+cpu") -> str:
    return f"torch-{VERSION}{build}-{tag}-{tag}-manylinux_2_28_{machine}.whl"


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_a_wheel_is_found_in_a_directory(tmp_path: Path, prefix: str) -> None:
    (tmp_path / wheel_name()).touch()
    link = f"{prefix}{tmp_path}"
    assert venv.find_wheel(["/nowhere", link], "cp311", "x86_64") == link


@pytest.mark.parametrize(
    "name",
    [
        wheel_name(tag="cp312"),
        wheel_name(machine="aarch64"),
        wheel_name(build=""),
        wheel_name(build="+cu130"),
        wheel_name().replace(VERSION, "1" + VERSION),
        wheel_name().replace("manylinux_2_28", "macosx_11_0"),
    ],
)
def test_a_wheel_for_something_else_is_not_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert venv.find_wheel([str(tmp_path)], "cp311", "x86_64") is None


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a page that links to the wheel; any other address is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/wheels" else 404)
            self.end_headers()
            self.wfile.write(f'<a href="{wheel_name(build="%2Bcpu")}">torch</a>'.encode())

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/wheels"
        server.shutdown()


def test_a_wheel_is_found_on_a_page(page: str) -> None:
    assert venv.find_wheel([page], "cp311", "x86_64") == page
    assert venv.find_wheel([page], "cp312", "x86_64") is None


def test_a_page_that_does_not_answer_is_no_page(page: str) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        assert venv.fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/") is None
    assert venv.fetch(page + "/other") is None
    assert venv.fetch(page, "HEAD") is not None


# --- which build ---


class Index:
    """Stands in for PyTorch's index: answers or not, and counts how often it was asked."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.asked = 0

    def __call__(self, url: str, method: str = "GET") -> str | None:
        assert url == "https://download.pytorch.org/whl/cpu/torch/"
        self.asked += 1
        return "" if self.answers else None


def choose(
    monkeypatch: pytest.MonkeyPatch,
    index: Index,
    wanted: str = "auto",
    tag: str = "cp311",
    listing: str = "",
) -> venv.Torch:
    monkeypatch.setattr(venv, "fetch", index)
    return venv.choose_torch(wanted, tag, "x86_64", listing)


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_a_wheel_at_hand_is_taken_without_asking_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    (tmp_path / wheel_name()).touch()
    index = Index(answers=True)
    torch = choose(monkeypatch, index, wanted, listing=f":env:.find-links='{tmp_path}'")
    assert (torch.kind, torch.arguments, index.asked) == ("cpu", (), 0)
    assert str(tmp_path) in torch.source


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_the_cpu_index_is_taken_where_it_answers(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    torch = choose(monkeypatch, Index(answers=True), wanted)
    assert torch.kind == "cpu"
    assert torch.arguments == ("--extra-index-url", "https://download.pytorch.org/whl/cpu")


def test_without_a_cpu_build_the_cuda_build_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = choose(monkeypatch, Index(answers=False))
    assert (torch.kind, torch.arguments) == ("cuda", ())
    for word in ("several GB", "does not answer", "PIP_FIND_LINKS", wheel_name()):
        assert word in torch.source


def test_a_build_whose_hash_is_unknown_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / wheel_name(tag="cp39")).touch()
    index = Index(answers=True)
    listing = f"global.find-links='{tmp_path}'"
    torch = choose(monkeypatch, index, tag="cp39", listing=listing)
    assert (torch.kind, index.asked) == ("cuda", 0)
    assert "make setup PYTHON=" in torch.source
    with pytest.raises(venv.Fault, match="hash of torch's CPU build is not known for cp39"):
        choose(monkeypatch, index, "cpu", tag="cp39", listing=listing)


def test_cuda_is_taken_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / wheel_name()).touch()
    index = Index(answers=True)
    torch = choose(monkeypatch, index, "cuda", listing=f"global.find-links='{tmp_path}'")
    assert (torch.kind, torch.arguments, index.asked) == ("cuda", (), 0)


def test_no_index_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(answers=True)
    assert choose(monkeypatch, index, listing=":env:.no-index='1'").kind == "cuda"
    assert index.asked == 0


@pytest.mark.parametrize(("kind", "met", "unmet"), [("cpu", "+cpu", ""), ("cuda", "", "+cpu")])
def test_the_requirement_is_met_by_one_build_only(kind: str, met: str, unmet: str) -> None:
    text = venv.torch_requirement(kind)
    requirement = next(line for line in text.splitlines() if line.startswith("torch"))
    specifiers = SpecifierSet(requirement.removeprefix("torch").split(" ;")[0])
    assert specifiers.contains(VERSION + met)
    assert not specifiers.contains(VERSION + unmet)
    assert text.count("--hash=") == venv.read_lock("torch.txt").count("--hash=")
