"""The artefact store as the host sees it: where it is, how big, what to remove.

The job writes it (bench/job/artefacts.py); the host bounds it. An entry is a directory under
lib/ or a file under params/; what was used least lately goes first.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageFault

DEFAULT_LIMIT_GIB = 20.0
LIMIT_VARIABLE = "GPT_FRONTEND_STORE_GIB"
STORE_VARIABLE = "GPT_FRONTEND_STORE"
_ABANDONED_S = 24 * 3600.0  # no export of a library takes a day


@dataclass(frozen=True)
class Store:
    """The store at ``root``, at most ``limit_bytes`` after each run."""

    root: Path
    limit_bytes: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Store:
        """The user's store: in the cache folder, unless the environment names another.

        Raises:
            UsageFault: the limit is not a number of GiB, or the store cannot be made.
        """
        cache = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = Path(environ.get(STORE_VARIABLE) or Path(cache) / "gpt-frontend" / "artefacts")
        text = environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_GIB))
        try:
            limit = float(text)
            root.mkdir(parents=True, exist_ok=True)
        except ValueError:
            raise UsageFault(
                f"{LIMIT_VARIABLE}={text} is not a number of GiB",
                hint=f"as in {LIMIT_VARIABLE}=20",
            ) from None
        except OSError as error:
            raise UsageFault(
                f"cannot make the artefact store {root}: {error.strerror}",
                hint=f"name another place: {STORE_VARIABLE}=DIR",
            ) from error
        return cls(root.absolute(), int(limit * 2**30))

    def size_bytes(self) -> int:
        return sum(size for _, size in self._entries())

    def trim(self) -> list[Path]:
        """Remove what was used least lately until the store is within its limit."""
        self._remove_abandoned()
        entries = self._entries()
        over = sum(size for _, size in entries) - self.limit_bytes
        removed = []
        for path, size in entries:
            if over <= 0:
                break
            self._remove(path)
            removed.append(path)
            over -= size
        self._remove_orphaned_params()
        return removed

    def clear(self) -> int:
        """Remove every entry; the bytes that were freed."""
        size = self.size_bytes()
        for path, _ in self._entries():
            self._remove(path)
        self._remove_orphaned_params()
        return size

    def _entries(self) -> list[tuple[Path, int]]:
        """Every library and its size with the parameters it brought, least lately used first.

        Parameters that libraries share are counted with the one used last.
        """
        counted: set[Path] = set()
        entries = []
        for entry in sorted(self.root.glob("lib/*"), key=_used, reverse=True):
            if entry.suffix == ".partial":
                continue
            size = _bytes(entry)
            params = self._params_of(entry)
            if params is not None and params.is_file() and params not in counted:
                counted.add(params)
                size += params.stat().st_size
            entries.append((entry, size))
        return entries[::-1]

    def _params_of(self, entry: Path) -> Path | None:
        try:
            digest = json.loads((entry / "meta.json").read_text())["params"]
        except (OSError, ValueError, KeyError):
            return None
        return self.root / "params" / f"{digest}.safetensors"

    def _remove_orphaned_params(self) -> None:
        owned = {self._params_of(entry) for entry in self.root.glob("lib/*")}
        newest = time.time() - 60  # parameters are written a moment before their library
        for path in self.root.glob("params/*.safetensors"):
            if path not in owned and _used(path) < newest:
                path.unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        for path in [*self.root.glob("lib/*.partial"), *self.root.glob("params/*.partial")]:
            if time.time() - _used(path) > _ABANDONED_S:
                self._remove(path)

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _bytes(entry: Path) -> int:
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(entry)
        for name in names
    )


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
