"""The state of the project's own checkout, for the record."""

from __future__ import annotations

import subprocess
from pathlib import Path


def state(root: Path) -> tuple[str | None, bool | None]:
    """(commit, whether the tree, new files too, differs); (None, None) outside a checkout."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(dirty)


def _git(root: Path, *arguments: str) -> str:
    # A checkout of another user's (a mounted one, say) is refused without safe.directory.
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
