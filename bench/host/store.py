"""The artefact store as the host sees it: where it is, how big, what to remove.

The job writes it (bench/job/artefacts.py); the host bounds it. An entry is a directory under
lib/ or a file under params/; what was used least lately goes first. Other runs may be at work in
it, so that anything seen may be gone a moment later.

Under tuning/ lie databases of hours of searching. They count, but nothing here removes one: what
was compiled makes room, and what tuning found goes when its owner asks for that.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.catalog import STORE_VARIABLE
from bench.errors import UsageFault
from bench.host import untrusted
from bench.tuning import TUNING_DIR

DEFAULT_LIMIT_GIB = 20.0
LIMIT_VARIABLE = "GPT_FRONTEND_STORE_GIB"
_ABANDONED_S = 24 * 3600.0  # no export of a library takes a day
# Parameters are there before the library that they belong to is exported.
_FRESH_S = 600.0
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Store:
    """The store at ``root``, at most ``limit_bytes`` after each run."""

    root: Path
    limit_bytes: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Store:
        """The user's store: in the cache folder, unless the environment names another.

        Raises:
            UsageFault: the limit is not a number of GiB.
        """
        cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(environ.get(STORE_VARIABLE) or Path(cache) / "gpt-frontend" / "artefacts")
        text = environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_GIB))
        try:
            limit = float(text) * 2**30
        except ValueError:
            limit = math.nan
        if not 0 <= limit < math.inf:
            raise UsageFault(
                f"{LIMIT_VARIABLE}={text} is not a number of GiB",
                hint=f"as in {LIMIT_VARIABLE}=20",
            )
        return cls(root.absolute(), int(limit))

    def prepare(self) -> None:
        """Make the folder, for a job to write to.

        Raises:
            UsageFault: it cannot be made or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.root, os.W_OK | os.X_OK)
            reason = "permission denied"
        except OSError as error:
            writable, reason = False, error.strerror or str(error)
        if not writable:
            raise UsageFault(
                f"cannot write to the artefact store {self.root}: {reason}",
                hint=f"name another place: {STORE_VARIABLE}=DIR",
            )

    def size_bytes(self) -> int:
        """All that the store holds, unfinished entries too."""
        compiled = self._children("lib") + self._children("params")
        return sum(map(_bytes, compiled)) + self.tuning_bytes()

    def tuning_bytes(self) -> int:
        """What tuning found, which no run makes room of."""
        return sum(map(_bytes, self._children(TUNING_DIR)))

    def trim(self) -> list[Path]:
        """Remove what was used least lately until the store is within its limit."""
        self._remove_abandoned()
        entries = self._entries()
        over = sum(size for _, size in entries) + self.tuning_bytes() - self.limit_bytes
        removed = []
        for path, size in entries:
            if over <= 0:
                break
            _remove(path)
            removed.append(path)
            over -= size
        self._remove_orphaned_params()
        return removed

    def clear(self) -> int:
        """Remove all that was compiled, under whichever run it is; the bytes that were freed."""
        freed = 0
        for path in self._children("lib") + self._children("params"):
            size = _bytes(path)
            _remove(path)
            freed += size - _bytes(path)
        return freed

    def clear_tuning(self) -> int:
        """Remove what tuning found; the bytes that were freed."""
        before = self.tuning_bytes()
        for path in self._children(TUNING_DIR):
            _remove(path)
        return before - self.tuning_bytes()

    def _children(self, folder: str) -> list[Path]:
        try:
            return sorted((self.root / folder).iterdir())
        except OSError:  # no run has made it yet
            return []

    def _entries(self) -> list[tuple[Path, int]]:
        """Every library and its size with the parameters it brought, least lately used first.

        Parameters that libraries share are counted with the one used last.
        """
        counted: set[Path] = set()
        entries = []
        for entry in sorted(self._children("lib"), key=_used, reverse=True):
            if entry.suffix == _PARTIAL:
                continue
            size = _bytes(entry)
            params = self._params_of(entry)
            if params is not None and params not in counted:
                counted.add(params)
                size += _bytes(params)
            entries.append((entry, size))
        return entries[::-1]

    def _params_of(self, entry: Path) -> Path | None:
        try:
            digest = json.loads(untrusted.read(entry / "meta.json", 2**20))["params"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return self.root / "params" / f"{digest}.safetensors"

    def _remove_orphaned_params(self) -> None:
        owned = {self._params_of(entry) for entry in self._children("lib")}
        for path in self._children("params"):
            orphaned = path.suffix != _PARTIAL and path not in owned
            if orphaned and time.time() - _used(path) > _FRESH_S:
                _remove(path)

    def _remove_abandoned(self) -> None:
        for path in self._children("lib") + self._children("params"):
            if path.suffix == _PARTIAL and time.time() - _used(path) > _ABANDONED_S:
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a directory, as far as that is allowed.

    A directory leaves its name at once: no job may find half an entry under it.
    """
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        aside = Path(tempfile.mkdtemp(dir=path.parent, suffix=_PARTIAL))
        with contextlib.suppress(OSError):
            path.rename(aside / "removed")
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)  # where no folder could be made beside it


def _bytes(path: Path) -> int:
    """The size of a file, or of all files in a directory; 0 where there is none any more."""
    files = [path, *(Path(parent, name) for parent, _, names in os.walk(path) for name in names)]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            status = file.lstat()
            total += 0 if file == path and path.is_dir() else status.st_size
    return total


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
