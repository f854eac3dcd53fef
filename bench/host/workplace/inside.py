"""What is done once inside a new container: `python -m bench.host.workplace.inside`.

A private repository is cloned with the caller's ssh agent into /src/private, beside TVM's tree
in /src/tvm, and installed so that a change of it counts at once. What is there already stays.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, JobFailed
from bench.host.workplace import choice
from bench.host.workplace.choice import Choice

SOURCES = Path("/src/private")
LENT = Path("/workspace/.devcontainer/host")
SHOWN_LINES = 15
# What git or pip says, and what to do about it; the first that matches counts.
CAUSES = (
    (
        r"Permission denied \(publickey|Could not open a connection to your auth",
        "no key of your agent is accepted there: on the host, ssh-add KEY; `ssh-add -l` lists",
    ),
    (
        r"Host key verification failed",
        "add the host's key to your known_hosts on the host, then: invoke devcontainer",
    ),
    (r"did not match any|not find remote (ref|branch)", "--private-ref names no branch or tag"),
    (
        r"[Cc]ould not resolve|[Tt]emporary failure|Connection (refused|timed out)",
        "is the host reachable from a container? ssh -T git@HOST in it",
    ),
    (
        r"No module named|Cannot import '|BackendUnavailable",
        "its build backend is not in the image: pip install it, then run this again: "
        "python -m bench.host.workplace.inside",
    ),
    (
        r"neither 'setup.py' nor 'pyproject.toml'",
        "it is cloned, and is no Python package: add its folder to PYTHONPATH",
    ),
)


def prepare(wanted: Choice, sources: Path = SOURCES) -> list[str]:
    """Clone and install what was asked for; gives what is there now, a line each.

    Raises:
        JobFailed: git or pip failed.
    """
    if wanted.private_repo is None:
        return []
    name = re.split(r"[/:]", wanted.private_repo.rstrip("/"))[-1].removesuffix(".git")
    folder = sources / name
    if not (folder / ".git").is_dir():
        # Beside it, then renamed: a clone that was cut off is not taken for one that is there.
        partial = sources / f".{name}.partial"
        subprocess.run(["rm", "-rf", "--", str(partial)], check=True)
        print(f"cloning {wanted.private_repo} to {folder}", flush=True)
        _run(
            [
                "git",
                "clone",
                "--quiet",
                "--recurse-submodules",
                "--",
                wanted.private_repo,
                str(partial),
            ],
            f"{wanted.private_repo} was not cloned",
        )
        if wanted.private_ref is not None:
            _run(
                ["git", "-C", str(partial), "checkout", "--quiet", wanted.private_ref, "--"],
                f"{wanted.private_repo} has no {wanted.private_ref}",
            )
        partial.rename(folder)
    # Its packages are the image's, from the locks; nothing is fetched beside them.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run(
        [*pip, "--no-deps", "--no-build-isolation", "--editable", str(folder)],
        f"{folder} was not installed",
    )
    return [f"{folder} is installed editable"]


def _run(argv: Sequence[str], failed: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return
    said = (done.stdout + done.stderr).strip()
    hint = next((remedy for cause, remedy in CAUSES if re.search(cause, said)), None)
    lines = "".join(f"\n  | {line[:200]}" for line in said.splitlines()[-SHOWN_LINES:])
    raise JobFailed(f"{failed}{lines}", hint=hint or "the lines above are its last ones")


def main() -> int:
    """0 always but for a defect: a container that one can enter is where such a thing is mended."""
    try:
        for line in prepare(choice.load(LENT)):
            print(line)
    except BenchError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
