"""The artefact store: compiled libraries and their parameters, addressed by content.

    <store>/lib/<key>/lib.so, meta.json      key: what the library was made from
    <store>/params/<sha256>.safetensors      the parameters' own content, shared by libraries

Both are published by one rename, so that an entry that can be seen is whole. Two jobs that make
the same entry at once both succeed; the second one's copy is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

STORE_VARIABLE = "GPT_FRONTEND_STORE"


@dataclass(frozen=True)
class Artefact:
    """One compiled model. ``compile_s`` is what compiling took when it was compiled."""

    key: str
    library: Path
    params: list[np.ndarray]
    compile_s: float
    cached: bool


def store_root() -> Path:
    """The store's directory: the one the host names, else the user's cache."""
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    return Path.home() / ".cache" / "gpt-frontend" / "artefacts"


def key_of(parts: Mapping[str, Any]) -> str:
    """The content address of everything that a library is made from."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def get(root: Path, key: str) -> Artefact | None:
    """The entry called ``key``, or None. A damaged entry counts as none and is made again."""
    entry = root / "lib" / key
    try:
        meta = json.loads((entry / "meta.json").read_text())
        params_path = _params_path(root, str(meta["params"]))
        params = _read_params(params_path)
        library = entry / "lib.so"
        if library.stat().st_size != meta["library_bytes"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    for used in (entry, params_path):
        os.utime(used)  # the host removes what was used least lately
    return Artefact(key, library, params, float(meta["compile_s"]), cached=True)


def put(
    root: Path,
    key: str,
    parts: Mapping[str, Any],
    export_library: Callable[[Path], None],
    params: Sequence[np.ndarray],
    compile_s: float,
) -> Artefact:
    """Keep a library and its parameters. Raises OSError where the disk is full or not ours."""
    params_digest = _put_params(root, params)
    directory = root / "lib"
    directory.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory, prefix=f"{key[:12]}.", suffix=".partial"))
    try:
        library = partial / "lib.so"
        export_library(library)
        meta = {
            "parts": dict(parts),
            "params": params_digest,
            "compile_s": compile_s,
            "library_bytes": library.stat().st_size,
        }
        (partial / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
        partial.chmod(0o755)
        entry = directory / key
        if entry.exists():  # damaged, or made meanwhile by another job: ours is as good
            shutil.rmtree(entry, ignore_errors=True)
        try:
            partial.rename(entry)
        except OSError:
            if not (entry / "meta.json").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Artefact(key, directory / key / "lib.so", list(params), compile_s, cached=False)


def _put_params(root: Path, params: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in params:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    name = digest.hexdigest()
    path = _params_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i:05d}": np.ascontiguousarray(array) for i, array in enumerate(params)}
    if path.exists() and path.stat().st_size >= sum(a.nbytes for a in tensors.values()):
        return name
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{name[:12]}.", suffix=".partial")
    os.close(handle)
    try:
        safetensors.numpy.save_file(tensors, partial)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return name


def _read_params(path: Path) -> list[np.ndarray]:
    tensors = safetensors.numpy.load_file(path)
    return [tensors[name] for name in sorted(tensors)]


def _params_path(root: Path, digest: str) -> Path:
    return root / "params" / f"{digest}.safetensors"
