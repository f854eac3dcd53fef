"""A developer's machine for a test: a checkout, a home with git's identity, an agent, an engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.host.engine.endpoint import Endpoint
from tests.conftest import ROOT

CLI = Path(__file__).parent / "node_modules" / ".bin" / "devcontainer"
NAME, MAIL = "Ada Developer", "ada@example.org"
VOLUMES = ("private", "tvm", "ccache")


@dataclass(frozen=True)
class Machine:
    """``user`` names the volumes, so that a test's are nobody else's. ``uid`` None: as this one."""

    checkout: Path
    user: str
    environ: Mapping[str, str]
    uid: int | None = None

    @property
    def prefix(self) -> list[str]:
        """What makes a command the other user's. The engine's socket is their group's.

        They may read all files, since the environment may be where only root can go; whatever is
        written is theirs all the same.
        """
        if self.uid is None:
            return []
        group = os.stat(self.environ["DOCKER_HOST"].removeprefix("unix://")).st_gid
        words = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={group}"]
        reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        return [*words, *reads, "--"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in the checkout, as this person."""
        return subprocess.run(
            [*self.prefix, *words],
            cwd=self.checkout,
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def invoke(self, *words: str) -> str:
        """A verb that must succeed; gives what it printed."""
        done = self.run(sys.executable, "-m", "invoke", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, script: str) -> str:
        """A script in a container of its own, by `invoke shell`."""
        return self.invoke("shell", "--command", script)

    def cli(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """The devcontainer CLI on this checkout."""
        return self.run("node", str(CLI), verb, "--workspace-folder", str(self.checkout), *words)

    def up(self) -> str:
        """Bring the container up, as an editor does; gives its id."""
        done = self.cli("up")
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["outcome"] == "success", done.stderr
        assert (told["remoteUser"], told["remoteWorkspaceFolder"]) == ("dev", "/workspace")
        return str(told["containerId"])

    def inside(self, script: str) -> str:
        """A script in the container that was brought up; must succeed."""
        done = self.cli("exec", "bash", "-euc", script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def volumes(self) -> list[str]:
        """The names of its volumes."""
        return [f"gpt-frontend-{name}-{self.user}" for name in VOLUMES]


@contextlib.contextmanager
def agent_of(machine: Machine, key: Path) -> Iterator[None]:
    """This person's own ssh-agent, at their SSH_AUTH_SOCK; one of root's would refuse them."""
    own = machine.checkout.parent / "key"
    shutil.copy(key, own)
    os.chown(own, machine.uid or 0, machine.uid or 0)
    own.chmod(0o600)
    socket = machine.environ["SSH_AUTH_SOCK"]
    agent = [*machine.prefix, "ssh-agent", "-D", "-a", socket]
    process = subprocess.Popen(agent, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not os.path.exists(socket):
            assert time.monotonic() < deadline, "ssh-agent does not start"
            time.sleep(0.05)
        done = machine.run("ssh-add", "-q", str(own))
        assert done.returncode == 0, done.stderr
        yield
    finally:
        process.terminate()
        process.wait()


def machine(
    folder: Path, endpoint: Endpoint, user: str, *, agent: str, known_hosts: str, uid: int | None
) -> Machine:
    """A new one in ``folder``, which must not exist."""
    checkout = folder / "gpt-frontend"
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "known_hosts").write_text(known_hosts)
    (home / ".gitconfig").write_text(
        f"[user]\n\tname = {NAME}\n\temail = {MAIL}\n[credential]\n\thelper = /host/only\n"
        "[init]\n\tdefaultBranch = trunk\n"
    )
    copy_of_checkout(checkout)
    if uid is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)
    environ = {
        **endpoint.cli_environ(os.environ),
        "HOME": str(home),
        "USER": user,
        "SSH_AUTH_SOCK": agent,
        # `make devcontainer` brings the environment up to date, which this one is.
        "VENV": sys.prefix,
        # buildx is perhaps installed for the real user alone.
        "DOCKER_CONFIG": os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker")),
        # What buildx writes is this person's: they may not write where that of root is.
        "BUILDX_CONFIG": str(home / ".buildx"),
    }
    # Under `make test ARGS=…` a make started here would take those arguments for its own.
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS")
    for name in ("SUDO_UID", "SUDO_GID", "GIT_CONFIG_GLOBAL", *of_make):
        environ.pop(name, None)
    made = Machine(checkout, user, environ, uid)
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "begun"]):
        done = made.run("git", *words)
        assert done.returncode == 0, done.stderr
    return made


def copy_of_checkout(into: Path) -> None:
    """The files that git knows or would know, as they are in the working tree."""
    for name in listed("ls-files", "--cached", "--others", "--exclude-standard"):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)


def listed(*words: str) -> Sequence[str]:
    told = subprocess.run(["git", "-C", str(ROOT), *words, "-z"], capture_output=True, check=True)
    return [os.fsdecode(name) for name in told.stdout.split(b"\0") if name]
