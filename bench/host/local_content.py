"""What decides what a job of the local engine does, in one number: the code and the locks.

The counterpart of an image's content id (``bench.host.content``). Host code, documents and tests
are not in it: a commit that touches those alone leaves what was measured as it is.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path

from bench.host.venv import STAMP

_OF_STAMP = ("locks", "torch")  # and not where the environment lies


def of(root: Path) -> str:
    """sha256 over the job's code in ``root``, its Python, and the locks of this environment."""
    entries = [
        [path.relative_to(root).as_posix(), _digest(path)]
        for path in [*(root / "bench").glob("*.py"), *(root / "bench/job").rglob("*.py")]
    ]
    decided = {"files": sorted(entries), "python": platform.python_version(), "locks": _locks()}
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:  # being edited: no two contents with this in it are worth telling
        return str(error)


def _locks() -> list[str | None]:
    try:
        said = json.loads((Path(sys.prefix) / STAMP).read_text())
        return [said.get(key) for key in _OF_STAMP]
    except (OSError, ValueError, AttributeError):  # no environment of ours
        return []
