"""The files that stand beside an image: its contract's record, its bill of materials, where it is
from. An engine's store has no place for them, so they lie in results/contracts/, by its tag.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bench.errors import UsageFault
from bench.host import verify

CONTRACT = ".json"
SBOM = ".cdx.json"
PROVENANCE = ".provenance.json"
KINDS = (CONTRACT, SBOM, PROVENANCE)


def path(tag: str, kind: str, folder: Path = verify.FOLDER) -> Path:
    """Where the file of this kind belongs."""
    return folder / f"{verify.stem(tag)}{kind}"


def keep(where: Path, content: str | bytes) -> Path:
    """Write a file whole, in place of an earlier one.

    Raises:
        UsageFault: it cannot be written there.
    """
    partial = where.with_name(f".{where.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(where)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may never have come to be
            partial.unlink()
        raise UsageFault(
            f"cannot write {where}: {error.strerror or error}",
            hint="name a file in a folder that you may write, with free space",
        ) from error
    return where
