"""The image to work in, from source: what a developer finds in /src/tvm, on the small project.

docs/verified.md has the same with TVM itself, by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from bench.host import verify
from bench.host.workplace import image as workplaces
from bench.host.workplace import person
from tests.docker.source.project import SOURCES, Project
from tests.docker.source.trial import Trial

if TYPE_CHECKING:
    from docker import DockerClient

Inside = Callable[[str], str]
STEPS = (
    *("set breakpoint pending on", "break TVMSmallCount", "run", "next", "next"),
    *("print counts.size()", "finish"),
)
CALL = 'import tvm; tvm._LIB.TVMSmallCount(b"abca")'


@pytest.fixture(scope="module")
def place(prepared: Trial, client: DockerClient) -> Iterator[workplaces.Workplace]:
    """Built as by `invoke devcontainer`; whatever was the place to work in before is so again."""
    from docker.errors import ImageNotFound

    try:
        before = client.images.get(workplaces.CURRENT)
    except ImageNotFound:
        before = None
    with pytest.MonkeyPatch.context() as patch:
        for name in ("verify", "write", "demand"):  # the small project can compile no GPT
            patch.setattr(verify, name, lambda *_, **__: None)
        for name, value in prepared.environ.items():
            patch.setenv(name, value)
        made = workplaces.ensure(
            prepared.request(),
            person.of_caller([], {}),
            prepared.pins,
            prepared.endpoint,
            client,
            lambda _: None,
            prepared.root,
        )
    yield made
    client.images.remove(workplaces.CURRENT)
    client.images.remove(made.tag)
    client.images.remove(prepared.plan().tag)  # the job's, which came first
    if before is not None:
        before.tag(workplaces.CURRENT)


@pytest.fixture
def inside(place: workplaces.Workplace, client: DockerClient) -> Inside:
    """What a script prints in a container of it, to its user, with both streams as one."""
    who = person.of_caller([], {})

    def run(script: str) -> str:
        told = client.containers.run(
            place.id,
            ["bash", "-euc", f"exec 2>&1\n{script}"],
            user=f"{who.uid}:{who.gid}",
            network_mode="none",
            cap_add=["SYS_PTRACE"],
            working_dir="/tmp",
            remove=True,
        )
        return str(told.decode())

    return run


def test_tree_is_the_locked_commit_with_every_object_of_it(small: Project, inside: Inside) -> None:
    assert inside("git -C /src/tvm rev-parse HEAD").strip() == small.commit
    assert "no work to do" in inside("ninja -C /src/tvm/build")
    # A change of one file compiles that one, and links what it is in.
    told = inside("touch /src/tvm/src/ir.cc; ninja -C /src/tvm/build")
    assert "Building CXX object CMakeFiles/tvm.dir/src/ir.cc.o" in told
    assert told.count("Building CXX") == 1 and "Linking CXX shared library libtvm.so" in told


def test_clangd_has_an_entry_for_every_source_and_compiles_by_it(inside: Inside) -> None:
    entries = json.loads(inside("cat /src/tvm/build/compile_commands.json"))
    compiled = {one["file"]: one["command"] for one in entries if one["file"].endswith(".cc")}
    assert set(compiled) == {f"/src/tvm/{name}" for name in SOURCES}
    assert all(" -g" in command and " -O0" in command for command in compiled.values())
    # It includes LLVM's headers, which are where the toolchain had them.
    check = "clangd --compile-commands-dir=/src/tvm/build --check=/src/tvm/src/llvm.cc"
    assert "All checks completed, 0 errors" in inside(check)


def test_gdb_steps_from_python_into_the_library_and_shows_its_source(inside: Inside) -> None:
    steps = " ".join(f"-ex '{step}'" for step in STEPS)
    told = inside(f"gdb -batch {steps} --args /opt/venv/bin/python -c '{CALL}'")
    assert "TVMSmallCount (text=" in told and "src/ir.cc:" in told, told
    assert "std::map<char, int> counts;" in told, told
    assert "Value returned is $2 = 3" in told, told
