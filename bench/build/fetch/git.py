"""git, run without questions; its failures with what mends them.

``Refused`` tells that a server does not hand out single commits, so that everything has to be
fetched; ``Passing`` that another attempt may succeed.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build.fetch.fault import Fault, Passing, masked

PROGRESS_EVERY_S = 5.0
PROGRESS = r"(remote: )?(Enumerat|Count|Compress|Receiv|Unpack|Resolv|Updat|Check)ing [\w ]+:"
STOP_TIMEOUT_S = 10
# Under so many bytes a second for so many seconds, a transfer counts as dead.
LOW_SPEED = {"GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "60"}
# What a hook or an outer git would have us work in.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
SHARED = ("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_NAMESPACE")

# The server does not give single commits, or nothing shallow.
REFUSED = (
    "does not allow request for unadvertised object|does not support shallow"
    "|couldn't find remote ref [0-9a-f]{40}"
)
CA_HINT = "name the CA bundle of the company's proxy on the host: export REQUESTS_CA_BUNDLE=FILE"
# Reason, whether it stays so however often one tries, remedy. The first that matches counts.
CAUSES = (
    (
        "not our ref",
        True,
        "the server does not have this commit: if a mirror is in use it may lag behind; "
        "else check the commit in docker/pins.toml",
    ),
    (
        "certificate verification failed|SSL certificate problem|unable to get local issuer",
        True,
        CA_HINT,
    ),
    (
        "Host key verification failed",
        True,
        "the server's host key is not the pinned one: compare ssh-keyscan HOST with what the "
        "server's operator publishes; checking is never switched off",
    ),
    (
        "Permission denied \\(",
        True,
        "give the build an agent that has the key: ssh-add KEY; invoke build-image --ssh default",
    ),
    (
        "response 407|code 407|error: 407|Proxy Authentication",
        True,
        "the proxy wants a user and a password: export https_proxy=http://USER:PASSWORD@HOST:PORT",
    ),
    (
        "could not read Username|Authentication failed|[Rr]epository.* not found|error: 40[134]"
        "|does not appear to be a git repository|access denied",
        True,
        "check the URL; a private repository needs --ssh, a mirror may lack this repository",
    ),
    (
        "transport '.*' not allowed|protocol '.*' is not supported|not a git command",
        True,
        "check the URL of this repository and of its mirror (--mirror)",
    ),
    ("No space left on device|[Dd]isk quota exceeded", True, "free some space: docker system df"),
    (
        "[Cc]ould not resolve proxy",
        False,
        "check the proxy's name: echo $https_proxy. A proxy on 127.0.0.1 has to accept connections "
        "from outside (“allow LAN connections”)",
    ),
    (
        "[Cc]ould not resolve|[Tt]emporary failure in name",
        False,
        "check the network from a container, and the proxy: export https_proxy=URL; "
        "or use a mirror: --mirror github=URL",
    ),
    (
        "early EOF|RPC failed|hung up|unexpected disconnect|bytes missing|curl \\d+",
        False,
        "the server or a proxy cut the transfer: run it again (what is finished is kept), or use "
        "a mirror: --mirror github=URL, or invoke mirror",
    ),
)
NETWORK_HINT = "check the network and the proxy (https_proxy), or use a mirror: --mirror github=URL"

Say = Callable[[str], None]


class Refused(Fault):
    """The server hands out branches and tags only, or nothing shallow."""


@dataclass(frozen=True)
class Git:
    """A git program in a settled environment."""

    environ: Mapping[str, str]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Git:
        """git as this process's environment has it, but without prompts or foreign settings."""
        settled = {key: value for key, value in environ.items() if key not in (*FOREIGN, *SHARED)}
        settled = {**LOW_SPEED, "GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **settled}
        settled |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
        return cls(settled)

    def out(self, *args: str, cwd: Path) -> str:
        """What a command prints.

        Raises:
            Fault: it failed; carries its reason.
        """
        done = self._run(args, cwd)
        if done.returncode != 0:
            raise Fault(f"git {args[0]} in {cwd}: {reason(done.stderr)}")
        return done.stdout

    def ok(self, *args: str, cwd: Path) -> bool:
        """Whether a command succeeds."""
        return self._run(args, cwd).returncode == 0

    def fetch(
        self,
        repository: Path,
        url: str,
        refspecs: Sequence[str],
        *options: str,
        say: Say,
        asked: bool = True,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Fetch refs or commits into a repository, telling git's own progress every few seconds.

        ``asked`` is False for an address that a repository named and not the user: git then
        refuses what only a user may name, as `git submodule` does. ``keep_open`` is for locks.

        Raises:
            Refused: the server does not give single commits, or nothing shallow.
            Passing: another attempt may succeed.
            Fault: it will fail again; carries the reason and what mends it.
        """
        argv = ["git", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "fetch", "--progress"]
        argv += ["--no-tags", "--no-recurse-submodules", *options, "--", url, *refspecs]
        environ = dict(self.environ) if asked else {**self.environ, "GIT_PROTOCOL_FROM_USER": "0"}
        code, errors = _follow(argv, repository, environ, say, keep_open)
        # It names the address that was used in the end, which may be a mirror's.
        (repository / "FETCH_HEAD").unlink(missing_ok=True)
        if code != 0:
            raise failure(errors)

    def _run(self, args: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["git", *args],
                cwd=cwd,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
            )
        except FileNotFoundError as error:
            if cwd.is_dir():
                raise Fault("git is not installed", hint="apt-get install git") from error
            raise


def failure(errors: str) -> Fault:
    """What a failed fetch's messages mean."""
    why = reason(errors)
    if re.search(REFUSED, errors):
        return Refused(why)
    for pattern, stays, hint in CAUSES:
        if re.search(pattern, errors):
            return Fault(why, hint=hint) if stays else Passing(why, hint=hint)
    return Passing(why, hint=NETWORK_HINT)


def reason(errors: str) -> str:
    """git's messages on one line, without its advice, at most 300 characters."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if re.match("(fatal|error|ERROR|remote|ssh|.*Permission denied|Host key)\\b", line)
    ]
    return masked("; ".join(telling or lines[-2:]) or "no reason given")[:300]


def _follow(
    argv: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    say: Say,
    keep_open: Sequence[int],
) -> tuple[int, str]:
    """Run to the end, passing on progress; the exit status and all other lines."""
    lines: list[str] = []
    with subprocess.Popen(
        list(argv),
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=keep_open,
    ) as process:
        assert process.stderr is not None  # PIPE
        rest, shown = b"", time.monotonic()
        try:
            while chunk := os.read(process.stderr.fileno(), 65536):
                *whole, rest = re.split(b"[\r\n]", rest + chunk)
                for raw in whole:
                    line = raw.decode(errors="replace").strip()
                    if not re.match(PROGRESS, line):
                        lines.append(line)
                    elif time.monotonic() - shown > PROGRESS_EVERY_S:
                        shown = time.monotonic()
                        say(f"  {line}")
            lines.append(rest.decode(errors="replace"))
            code = process.wait()
        except BaseException:
            process.terminate()  # git then removes what it had begun
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return code, "\n".join(lines)
