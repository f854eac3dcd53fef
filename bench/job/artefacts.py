"""The artefact store: compiled libraries and their parameters, addressed by content.

    <store>/lib/<key>/lib.so, meta.json      key: what the library was made from
    <store>/params/<sha256>.safetensors      the parameters' own content, shared by libraries

Both are published by one rename, so that an entry that can be seen is whole. What harms it later
is found when it is read: by its content, since damage need not change a size. Two jobs that make
the same entry at once both succeed; the second one's copy is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bench.catalog import STORE_VARIABLE


@dataclass(frozen=True)
class Artefact:
    """One compiled model. ``compile_s`` is what compiling and linking took when it was compiled."""

    key: str
    library: Path
    params: list[np.ndarray]
    params_digest: str
    compile_s: float
    cached: bool
    target: Mapping[str, Any]  # what the code is for: ``CompileTarget.to_dict``


def store_root() -> Path:
    """The store's directory: the one the host names, else the user's cache."""
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gpt-frontend" / "artefacts"


def key_of(parts: Mapping[str, Any]) -> str:
    """The content address of everything that a library is made from."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def get(root: Path, key: str) -> Artefact | None:
    """The entry called ``key``, or None. A damaged entry counts as none and is made again."""
    entry = root / "lib" / key
    library = entry / "lib.so"
    try:
        meta = json.loads((entry / "meta.json").read_text())
        digest, compile_s = str(meta["params"]), float(meta["compile_s"])
        target = dict(meta["parts"].get("target", {}))
        if hashlib.sha256(library.read_bytes()).hexdigest() != meta["library_sha256"]:
            return None
        params_path = _params_path(root, digest)
        tensors = safetensors.numpy.load_file(params_path)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    params = [tensors[name] for name in sorted(tensors)]
    if _digest(params) != digest or not 0 <= compile_s < math.inf:
        return None
    for used in (entry, params_path):
        with contextlib.suppress(OSError):  # removed meanwhile; or another user's
            os.utime(used)  # the host removes what was used least lately
    return Artefact(key, library, params, digest, compile_s, cached=True, target=target)


def put(
    root: Path,
    key: str,
    parts: Mapping[str, Any],
    export_library: Callable[[Path], None],
    params: Sequence[np.ndarray],
    compile_s: float,
) -> Artefact:
    """Keep a library and its parameters. Raises OSError where the disk is full or not ours.

    To ``compile_s`` is added what ``export_library`` takes: it links.

    An entry that another job has published meanwhile is kept, and returned.
    """
    arrays = [np.asarray(array, order="C") for array in params]
    params_digest = _put_params(root, arrays)
    directory = root / "lib"
    directory.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory, prefix=f"{key[:12]}.", suffix=".partial"))
    try:
        library = partial / "lib.so"
        begin = time.perf_counter()
        export_library(library)
        compile_s += time.perf_counter() - begin
        meta = {
            "parts": dict(parts),
            "params": params_digest,
            "compile_s": compile_s,
            "library_sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
        }
        (partial / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
        partial.chmod(0o755)
        entry = directory / key
        with _one_at_a_time(directory):
            if os.path.lexists(entry):
                theirs = get(root, key)
                if theirs is not None:
                    return replace(theirs, compile_s=compile_s, cached=False)
                _remove(entry)
            partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    target = dict(parts.get("target", {}))
    return Artefact(key, entry / "lib.so", arrays, params_digest, compile_s, False, target)


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, of which the kernel frees a job that is killed.

    Without it, of two jobs that find an entry damaged, the slower one could remove what the
    faster one has just put in its place.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have none
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove(entry: Path) -> None:
    """Remove a damaged entry, whatever it is. It leaves its name at once."""
    aside = Path(tempfile.mkdtemp(dir=entry.parent, suffix=".partial"))
    try:
        with contextlib.suppress(FileNotFoundError):  # the host was quicker
            entry.rename(aside / "damaged")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_params(root: Path, arrays: Sequence[np.ndarray]) -> str:
    name = _digest(arrays)
    path = _params_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if _holds(path, name):
        with contextlib.suppress(OSError):
            os.utime(path)  # as new as if written now: the host spares new ones
        return name
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{name[:12]}.", suffix=".partial")
    os.close(handle)
    try:
        tensors = {f"{i:05d}": array for i, array in enumerate(arrays)}
        safetensors.numpy.save_file(tensors, partial)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except safetensors.SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return name


def _holds(path: Path, digest: str) -> bool:
    """Whether the file's parameters have ``digest``. Reads one at a time: memory is measured."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _digest(file.get_tensor(name) for name in sorted(file.keys())) == digest
    except (OSError, ValueError, TypeError, safetensors.SafetensorError):
        return False


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """sha256 over type, shape and content of each array."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.asarray(array, order="C").data)
    return digest.hexdigest()


def _params_path(root: Path, digest: str) -> Path:
    return root / "params" / f"{digest}.safetensors"
