"""Several files replaced, all or none."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench.errors import UsageFault


def together(contents: Mapping[Path, str]) -> None:
    """Write each file anew; a failure on the way puts back those that were replaced before it.

    Everything is written beside its place first, so that a full disk shows before any file has
    changed.

    Raises:
        UsageFault: a file could not be written; all are as they were.
    """
    mark = f".{os.getpid()}"
    fresh = {path: path.with_name(f".{path.name}{mark}.new") for path in contents}
    saved = {path: path.with_name(f".{path.name}{mark}.old") for path in contents}
    replaced: list[Path] = []
    try:
        for path, content in contents.items():
            with fresh[path].open("w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, fresh[path])
                shutil.copy2(path, saved[path])
        for path in contents:
            # Counted before the rename: what a signal interrupts behind it is put back too.
            replaced.append(path)
            fresh[path].replace(path)
    except BaseException as error:
        for path in replaced:
            if saved[path].exists():
                saved[path].replace(path)
            elif not fresh[path].exists():  # there was none before
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageFault(
                f"the lock could not be written: {error}",
                hint="nothing was changed; free some space, or make docker/ writable for you",
            ) from error
        raise
    finally:
        for path in (*fresh.values(), *saved.values()):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
