"""An image built again from what its labels and its record's commit say.

The tag holds the content id (ADR 2), so that a dry run tells, before hours of compiling, whether a
commit with these options makes the image that is wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.errors import BenchError, UsageFault
from bench.host import pins
from bench.host.history import measuring, repository
from bench.host.image import LABELS
from bench.record import ImageRef

Progress = Callable[[str], None]


def options(labels: Mapping[str, str], pinned: pins.Pins) -> list[str]:
    """The words of `invoke build-image` that make an image of these labels. Raises as ``asked``."""
    words = []
    for name, value in asked(labels, pinned).items():
        words += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else [])]
    return words


def asked(
    labels: Mapping[str, str], pinned: pins.Pins, private_repo: str | None = None
) -> dict[str, str | bool]:
    """The options of `invoke build-image`, by name, that make an image of these labels.

    ``private_repo`` is the address of the repository whose commit the labels name without it.

    Raises:
        UsageFault: the labels are none of ours, or name what only its owner can bring.
    """
    profile = labels.get(f"{LABELS}.profile")
    if profile is None:
        raise UsageFault(
            "its labels do not say what it was built from", hint="`invoke build-image` labels all"
        )
    chosen: dict[str, str | bool] = {"profile": profile}
    private = labels.get(f"{LABELS}.private-commit")
    if private is not None:
        if private_repo is None:
            raise UsageFault(
                "a private repository is in it, which only its owner can clone",
                hint="name it: invoke verify-image --rebuild --ssh default --private-repo URL",
            )
        chosen |= {"private_repo": private_repo, "private_ref": private}
    elif private_repo is not None:
        raise UsageFault("no private repository is in it", hint="leave --private-repo out")
    base = labels.get(f"{LABELS}.base")
    if base and base not in (labels.get(f"{LABELS}.pin.base"), pinned.base_image.tag):
        chosen["base"] = base
    build = {
        key.removeprefix(f"{LABELS}.build."): value
        for key, value in labels.items()
        if key.startswith(f"{LABELS}.build.")
    }
    if build:
        distribution = build["llvm_config"].startswith("/usr/lib/llvm-")
        chosen |= {"tvm_ref": build["tvm_commit"], "build_type": build["build_type"]}
        chosen["llvm"] = f"apt:{build['llvm']}" if distribution else build["llvm"]
        if build["cuda_from"] != "none":
            chosen["cuda_arch"] = build["cuda_arch"]
        if build["cuda_from"] == "wheels":
            chosen["cuda_from_wheels"] = True
    return chosen


def rebuild(
    wanted: ImageRef,
    commit: str | None,
    root: Path,
    pinned: pins.Pins,
    progress: Progress = lambda _: None,
) -> str | None:
    """Build ``wanted`` again at ``commit`` of the project; None where it was built.

    Returns:
        Why not, in words, where it could not be.
    """
    if commit is None:
        return "the record names no commit to build it from"
    try:
        chosen = options(wanted.labels, pinned)
        commit = repository.commit_of(root, commit)
        with repository.worktree(root) as tree:
            repository.check_out(tree, commit)
            command = [sys.executable, "-m", "invoke", "build-image", *chosen]
            progress(f"what does {commit[:12]} make?")
            code, said, printed = measuring.in_tree([*command, "--dry-run"], tree)
            if code != 0:
                return f"commit {commit[:12]} says: {said}"
            if f"{wanted.tag} " not in printed:
                return f"commit {commit[:12]} makes another image: {_last(printed)}"
            progress(f"building {wanted.tag} from {commit[:12]}")
            code, said, _ = measuring.in_tree(command, tree)
            return None if code == 0 else f"its build at {commit[:12]} failed: {said}"
    except BenchError as error:
        return error.message


def _last(printed: str) -> str:
    lines = printed.strip().splitlines() or ["it does not say which"]
    return lines[-1].split(" ")[0]
