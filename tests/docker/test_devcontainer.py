"""The container to work in, brought up by the devcontainer CLI as an editor brings it up.

CI has no Debug build of TVM, so what is stepped through is a small C++ library that Python calls.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import mirrors, pins
from bench.host.engine.endpoint import Endpoint
from bench.host.image import Image
from bench.host.workplace import choice, person
from bench.host.workplace import image as workplaces
from tests.conftest import ROOT, cannot_run
from tests.docker.source import project, ssh
from tests.docker.source.ssh import SshServer
from tests.docker.workplace import place
from tests.docker.workplace.place import MAIL, NAME, Machine

if TYPE_CHECKING:
    from docker import DockerClient

# Ours, since tests write to it; the image's own Python calls it.
SMALL = """\
extern "C" int add_up(int count) {
  int total = 0;
  for (int i = 1; i <= count; ++i) {
    total += i * STEP;
  }
  return total;
}
"""
CALLS = "import ctypes\nprint('sum', ctypes.CDLL('/tmp/small/libsmall.so').add_up(4), flush=True)\n"
COMPILE = "g++ -g -O0 -shared -fPIC -DSTEP=10 -o libsmall.so small.cpp"
STEPS = """\
break add_up
run calls.py
next
next
next
print total
print i
finish
"""
WAITS = "import time\nwhile True:\n    time.sleep(0.05)\n"
PACKAGE = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "private-frontend"
version = "1.0"
[tool.setuptools]
py-modules = ["private_frontend"]
"""


@pytest.fixture(scope="module")
def dev_image(endpoint: Endpoint, client: DockerClient, built_image: Image) -> workplaces.Workplace:
    """The image to work in: made here with this machine's own settings, found by all later."""
    for name in ("git", "node", "npm", "ssh-agent", "make"):
        if shutil.which(name) is None:
            cannot_run(f"{name} is missing: apt-get install git make nodejs npm openssh-client")
    if not place.CLI.is_file():
        cannot_run(f"{place.CLI.relative_to(ROOT)} is not there: make setup-devcontainer")
    loaded = pins.load()
    request = choice.Choice(profile="cpu").request(loaded, mirrors.Mirrors())
    who = person.of_caller([], {})
    return workplaces.ensure(request, who, loaded, endpoint, client, lambda _: None)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ssh.make_key(tmp_path_factory.mktemp("key"), "developer")


@pytest.fixture(scope="module")
def agent(key: Path) -> Iterator[str]:
    with ssh.agent(key) as socket:
        yield socket


@pytest.fixture(scope="module")
def forge(
    endpoint: Endpoint,
    client: DockerClient,
    base_ref: str,
    key: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SshServer]:
    """Two repositories behind a real sshd: one to push to, and a private one to work on."""
    folder = tmp_path_factory.mktemp("forge")
    root = folder / "repositories"
    root.mkdir()
    project.commit(root / "work.git", {"README": "empty\n"})
    files = {"pyproject.toml": PACKAGE, "private_frontend.py": "ANSWER = 42\n"}
    project.commit(root / "private-frontend.git", files)
    with ssh.serve(endpoint, client, base_ref, root, key, folder) as server:
        running = client.containers.get(server.container)
        assert running.exec_run(["chown", "-R", "git:git", "/srv/git"]).exit_code == 0
        yield server


def discard(client: DockerClient, machine: Machine) -> None:
    label = f"devcontainer.local_folder={machine.checkout}"
    for container in client.containers.list(all=True, filters={"label": label}):
        container.remove(force=True)
    for volume in client.volumes.list():
        if volume.name in machine.volumes():
            volume.remove(force=True)


@pytest.fixture(scope="module")
def machine(
    endpoint: Endpoint,
    client: DockerClient,
    dev_image: workplaces.Workplace,
    agent: str,
    forge: SshServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    """With the container up, and the private repository asked for."""
    folder = tmp_path_factory.mktemp("machine") / "own"
    user = f"test-{secrets.token_hex(4)}"
    made = place.machine(
        folder, endpoint, user, agent=agent, known_hosts=forge.known_hosts, uid=None
    )
    try:
        told = made.invoke("devcontainer", "--private-repo", forge.url("private-frontend.git"))
        assert f"{dev_image.tag} found, unchanged" in told
        made.up()
        made.inside(
            f"mkdir /tmp/small; cd /tmp/small; cat >small.cpp <<'END'\n{SMALL}END\n{COMPILE}"
        )
        yield made
    finally:
        discard(client, made)


def pushed(client: DockerClient, forge: SshServer, branch: str) -> str:
    """Who wrote, and who committed, the last commit of a branch that the server has."""
    show = ["git", "-C", "/srv/git/work.git", "log", "-1", "--format=%an <%ae> %cn %s", branch]
    output = client.containers.get(forge.container).exec_run(show).output
    assert isinstance(output, bytes)
    return output.decode()


# --- git, from inside ---


def test_a_commit_from_inside_is_the_hosts_and_is_pushed_by_its_agent(
    machine: Machine, forge: SshServer, client: DockerClient
) -> None:
    before = forge.log().count("Accepted key")
    machine.inside(
        "cd /workspace; echo from inside >inside.txt; git add inside.txt;"
        f"git commit --quiet -m 'from inside'; git push --quiet {forge.url('work.git')} HEAD:side"
    )
    assert pushed(client, forge, "side") == f"{NAME} <{MAIL}> {NAME} from inside\n"
    assert forge.log().count("Accepted key") > before
    # The checkout is the host's, and so is the commit.
    assert machine.run("git", "log", "-1", "--format=%s").stdout == "from inside\n"
    assert (machine.checkout / "inside.txt").stat().st_uid == machine.checkout.stat().st_uid


def test_no_key_goes_inside_and_no_program_of_the_hosts_is_called(
    machine: Machine, key: Path
) -> None:
    secret = key.read_text().splitlines()[2]
    found = machine.inside(
        f"grep -rlF {secret} /home /root /etc /run /src /workspace/.devcontainer 2>/dev/null || :;"
        "git config --system --get-all credential.helper || echo none;"
        "git config init.defaultBranch"
    )
    assert found == "none\ntrunk\n"


def test_a_server_with_another_key_than_the_known_one_is_refused(
    machine: Machine, forge: SshServer
) -> None:
    done = machine.cli(
        "exec",
        "bash",
        "-c",
        "sed 's/ssh-ed25519 .*/ssh-ed25519 "
        "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/' "
        "/etc/ssh/ssh_known_hosts >/tmp/known; git -c core.sshCommand='ssh -o BatchMode=yes "
        "-o GlobalKnownHostsFile=/tmp/known' ls-remote "
        f"{forge.url('work.git')}",
    )
    assert done.returncode != 0
    assert "Host key verification failed" in done.stdout + done.stderr


def test_the_private_repository_is_beside_tvm_and_a_change_of_it_counts_at_once(
    machine: Machine,
) -> None:
    told = machine.inside(
        "cd /tmp; python -c 'import private_frontend as p; print(p.__file__, p.ANSWER)';"
        "cd /src/private/private-frontend; echo ANSWER = 43 >private_frontend.py;"
        "git diff --name-only;"
        "cd /tmp; python -c 'import private_frontend as p; print(p.ANSWER)'; ls -d /src/tvm"
    )
    file = "/src/private/private-frontend/private_frontend.py"
    assert told.splitlines() == [f"{file} 42", "private_frontend.py", "43", "/src/tvm"]


# --- tools ---


def test_gdb_steps_from_python_into_a_debug_function(machine: Machine) -> None:
    told = machine.inside(
        f"cd /tmp/small; cat >calls.py <<'END'\n{CALLS}END\n"
        f"cat >steps <<'END'\n{STEPS}END\ngdb -batch -x steps /opt/venv/bin/python 2>&1"
    )
    assert "Breakpoint 1, add_up (count=4) at small.cpp:2" in told, told
    assert "$1 = 10" in told and "$2 = 1" in told, told
    assert "Value returned is $3 = 100" in told, told
    # What devcontainer.json mounts as /etc/gdb/gdbinit keeps it from complaining.
    assert "address space randomization" not in told


def test_gdb_attaches_to_a_program_that_was_started_to_be_traced(machine: Machine) -> None:
    told = machine.inside(
        f"cd /tmp/small; cat >waits.py <<'END'\n{WAITS}END\n"
        'python -m bench.host.workplace.traced waits.py & pid=$!; trap "kill $pid" EXIT;'
        "until grep -qs waits.py /proc/$pid/cmdline; do sleep 0.1; done; sleep 1;"
        "gdb -batch -p $pid -ex 'info proc' -ex bt 2>&1"
    )
    assert "waits.py" in told and "sleep" in told, told


def test_gdb_stops_where_python_enters_tvm(machine: Machine) -> None:
    told = machine.inside(
        "cd /tmp; gdb -batch -ex 'break TVMFFIFunctionCall' -ex run -ex 'bt 3' "
        "--args /opt/venv/bin/python -c "
        "\"import tvm; tvm.get_global_func('testing.echo')(1)\" 2>&1"
    )
    assert "TVMFFIFunctionCall" in told.split("Breakpoint 1,")[-1], told
    assert "libtvm_ffi.so" in told, told


def test_clangd_compiles_by_the_database(machine: Machine) -> None:
    entry = [{"directory": "/tmp/small", "file": "small.cpp", "command": COMPILE}]
    told = machine.inside(
        f"cd /tmp/small; echo '{json.dumps(entry)}' >compile_commands.json;"
        "clangd --check=small.cpp 2>&1; mv compile_commands.json kept;"
        "clangd --check=small.cpp 2>&1 || :"
    )
    whole, alone = told.split("All checks completed, 0 errors")
    assert "-DSTEP=10" in whole.replace('"', "")
    assert "undeclared identifier 'STEP'" in alone and "completed, 1 errors" in alone


def test_the_projects_own_tools_are_there(machine: Machine) -> None:
    told = machine.inside(
        "python -c 'import bench, sys; print(bench.__path__[0], sys.prefix)'; ccache --version |"
        "head -1; cmake --version | head -1; ninja --version; echo $CCACHE_DIR; touch /ccache/mine"
    )
    versions = pins.load().versions
    first, ccache, cmake, ninja, folder = told.splitlines()
    assert first == "/workspace/bench /opt/venv"
    assert ccache.startswith("ccache version") and folder == "/ccache"
    assert cmake == f"cmake version {versions.cmake}" and ninja.startswith(versions.ninja)


# --- the same in a terminal ---


def test_a_shell_is_the_same_place(machine: Machine) -> None:
    script = (
        "id -u; echo $HOME $PATH; env | grep -E '^(PYTHONPATH|CCACHE|SSH_AUTH)' | sort; pwd;"
        "awk '$5 !~ \"^/(proc|sys|dev)\" { print $5 }' /proc/self/mountinfo | sort;"
        "git config user.email; ssh-add -l | cut -d' ' -f2; ls /src/private"
    )
    # What the clone's own shell prints at its start comes first.
    wanted = machine.inside(script).splitlines()
    assert machine.shell(script).splitlines()[-len(wanted) :] == wanted
    assert MAIL in wanted and "private-frontend" in wanted


def test_an_ordinary_user_works_as_themselves(
    endpoint: Endpoint,
    client: DockerClient,
    dev_image: workplaces.Workplace,
    key: Path,
    forge: SshServer,
) -> None:
    if os.getuid() != 0:
        cannot_run("only root can become somebody else")
    # Not pytest's folder: nobody else can enter that.
    folder = Path(tempfile.mkdtemp(prefix="gpt-developer-"))
    folder.chmod(0o755)
    socket = str(folder / "own" / "socket")
    user = f"test-{secrets.token_hex(4)}"
    made = place.machine(
        folder / "own", endpoint, user, agent=socket, known_hosts=forge.known_hosts, uid=4321
    )
    try:
        with place.agent_of(made, key):
            told = made.shell(
                "id -u; whoami; touch made; git add made; git commit --quiet -m theirs;"
                f"git push --quiet {forge.url('work.git')} HEAD:theirs; touch /ccache/mine;"
                "git log -1 --format=%an:%s"
            )
        assert told.splitlines()[-3:] == ["4321", "dev", f"{NAME}:theirs"]
        # What was made inside, by git too, is theirs, and what the verb laid out.
        paths = [made.checkout / "made", *(made.checkout / ".git").rglob("*")]
        lent = made.checkout / ".devcontainer" / "host"
        assert {path.lstat().st_uid for path in (*paths, lent, *lent.iterdir())} == {4321}
        assert pushed(client, forge, "theirs") == f"{NAME} <{MAIL}> {NAME} theirs\n"
    finally:
        discard(client, made)
        shutil.rmtree(folder)


def test_the_image_that_jobs_run_in_has_none_of_it(
    built_image: Image, client: DockerClient
) -> None:
    script = (
        "for name in gdb clangd ccache ssh; do command -v $name && exit 1; done; test ! -e /src"
    )
    client.containers.run(built_image.id, ["sh", "-c", script], remove=True)
