"""A run directory once its job is over: made fit to be read and published.

The job could write there what it liked. What is left after this are plain files and directories,
the host's own among them as the host wrote them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import BinaryIO

from bench.catalog import OUTCOME_FILE, SPEC_FILE
from bench.host import untrusted
from bench.host.engine.base import Launch
from bench.host.runs import LOG, RECORD, REPORT, RunDirectory, to_json
from bench.jobs import AnySpec
from bench.training import CHECKPOINT_DIR, LOSS_CURVE, LOSS_TABLE
from bench.tuning import CURVE as TUNING_CURVE

_FILES = (
    *(SPEC_FILE, OUTCOME_FILE, f"{OUTCOME_FILE}.partial"),
    *(LOG, RECORD, REPORT, LOSS_TABLE, LOSS_CURVE, TUNING_CURVE),
)
_KEPT = (SPEC_FILE, OUTCOME_FILE, LOG, CHECKPOINT_DIR)


def tidy(directory: RunDirectory, spec: AnySpec, log: BinaryIO) -> list[str]:
    """Remove what is no part of a run, and put back what the host had written.

    Args:
        log: the log's file as the host opened it, for reading too.

    Returns:
        What was done, in words; nothing where a job did only what jobs do.
    """
    said = [f"removed the {what}" for what in untrusted.settle(directory.path)]
    for name in _FILES:
        if (directory.path / name).is_dir():
            untrusted.remove(directory.path / name)
            said.append(f"removed the directory {name!r}")
    wanted = to_json(spec).encode()
    path = directory.path / SPEC_FILE
    if not _holds(path, wanted):
        with contextlib.suppress(OSError):
            path.write_bytes(wanted)
            said.append(f"wrote {SPEC_FILE} anew")
    if _replaced(directory, log):
        with contextlib.suppress(OSError):
            directory.log.unlink(missing_ok=True)
            log.seek(0)
            with directory.log.open("wb") as fresh:
                shutil.copyfileobj(log, fresh)
            said.append(f"wrote {LOG} anew")
    return said


def cut(launch: Launch) -> list[str]:
    """What of a run over its disk budget had to go, largest first: never a checkpoint or the log.

    Returns:
        What was removed, in words.
    """
    limits = launch.limits
    gone = untrusted.shrink(launch.run_dir, limits.budget, limits.names, _KEPT)
    return [f"removed the {what}" for what in gone]


def _holds(path: os.PathLike[str], wanted: bytes) -> bool:
    with contextlib.suppress(OSError):
        return untrusted.read(path, len(wanted)) == wanted
    return False


def _replaced(directory: RunDirectory, log: BinaryIO) -> bool:
    try:
        return not os.path.samestat(os.fstat(log.fileno()), directory.log.lstat())
    except OSError:
        return True
