"""What a killed sweep, or any killed run, left behind: ended and removed before one measures."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.catalog import SPEC_FILE
from bench.errors import BenchError
from bench.host import runs, untrusted
from bench.host.engine import docker, endpoint, local

_SPEC_BYTES = 2**20
_FRESH_S = 5.0  # within which a run that is being created has not said yet whose it is


def clear(out: Path, *, containers: bool) -> Iterator[str]:
    """End the jobs of dead hosts, and remove the partial runs of benchmarks; tells of each.

    A training's partial run has its checkpoint, and stays for `invoke clean` to tell of.

    Raises:
        JobFailed: a job cannot be ended.
    """
    for pid in local.end_abandoned():
        yield f"ended: process {pid}, of a job whose host was killed"
    if containers:
        try:
            client = endpoint.connect(endpoint.find_endpoint(os.environ), os.environ)
            with endpoint.engine_errors():
                for name in docker.remove_abandoned(client):
                    yield f"removed: container {name}, whose host was killed"
        except BenchError as error:
            yield f"the engine was not asked for abandoned containers: {error.message}"
    for path in runs.stale(out):
        if _is_ours(path):
            runs.remove_stale(path)
            yield f"removed: {path.name}, which was cut short"


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(untrusted.read(path / SPEC_FILE, _SPEC_BYTES))["kind"] == "bench")
    except FileNotFoundError:  # killed before it was written, unless it is about to be
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime > _FRESH_S
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return False
