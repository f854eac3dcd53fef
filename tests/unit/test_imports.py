"""The two sides of bench/ meet in a few files: who may import what, held by a table."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

NEUTRAL = {
    "bench.account",
    "bench.catalog",
    "bench.checkpoint",
    "bench.contract",
    "bench.cores",
    "bench.counts",
    "bench.errors",
    "bench.generation",
    "bench.jobs",
    "bench.latency",
    "bench.limits",
    "bench.operators",
    "bench.record",
    "bench.roofline",
    "bench.system",
    "bench.training",
    "bench.trend",
    "bench.tuning",
}
# Of each room: what it may import of ours, and what of others' it must not.
ALLOWED = {
    "bench/host": ({"bench.host", "bench.build", *NEUTRAL}, {"torch", "tvm", "numpy"}),
    "bench/job": ({"bench.job", "bench.build", *NEUTRAL}, {"docker", "invoke", "rich"}),
    "bench/tasks": ({"bench.tasks", "bench.host", *NEUTRAL}, {"torch", "tvm", "numpy"}),
    # It runs before anything is installed: neither side, and nothing but the standard library.
    "bench/build": ({"bench.build"}, {"torch", "tvm", "numpy", "docker", "invoke", "rich"}),
}
NEUTRAL_FORBIDDEN = {"torch", "tvm", "numpy", "docker", "invoke", "rich"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            # `from bench import record` names a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"no module in {room}"
    return found


def within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    ours, forbidden = ALLOWED[room]
    for path in modules(room):
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in forbidden, f"{path.relative_to(ROOT)} imports {name}"
            if top == "bench" and name != "bench":
                assert within(name, ours), f"{path.relative_to(ROOT)} imports {name}"


def test_what_runs_inside_a_build_needs_the_standard_library_alone() -> None:
    for path in modules("bench/build"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top == "bench" or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_what_both_sides_share_needs_neither_side() -> None:
    for module in NEUTRAL:
        path = ROOT / (module.replace(".", "/") + ".py")
        for name in imports(path):
            assert name.split(".")[0] not in NEUTRAL_FORBIDDEN, f"{module} imports {name}"
            assert not within(name, {"bench.host", "bench.job"}), f"{module} imports {name}"


def test_only_tasks_exits() -> None:
    # The job's three entry points return their status to the interpreter; nothing else ends it.
    entries = {"bench/job/__main__.py", "bench/job/worker.py", "bench/host/venv.py"}
    entries.add("bench/job/tune/search.py")
    entries.add("bench/host/doctor/container.py")  # in a program that it hands to a container
    for path in modules("bench"):
        if str(path.relative_to(ROOT)) not in entries:
            assert "sys.exit(" not in path.read_text(), path


def test_importing_the_host_touches_nothing() -> None:
    """No daemon, GPU or network: with no socket allowed, every host module still imports."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules("bench/host")
        if path.name != "__init__.py"
    ]
    code = (
        "import socket, importlib, sys\n"
        "def no(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = no\n"
        f"[importlib.import_module(n) for n in {names!r}]\n"
        "assert not {'torch', 'tvm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_is_over_400_lines() -> None:
    for path in [*modules("bench"), *modules("tests"), ROOT / "tasks.py"]:
        assert len(path.read_text().splitlines()) <= 400, path
