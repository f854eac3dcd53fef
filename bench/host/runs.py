"""The run directory: created as ``<run-id>.partial``, published by one rename, listed, found.

A directory without ``.partial`` is complete: spec.json, record.json, job.log, report.md.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bench.catalog import GATED_CALLS, GATED_STEPS, SPEC_FILE
from bench.errors import UsageFault
from bench.host import caller, untrusted
from bench.host import owner as owners
from bench.jobs import AnySpec
from bench.record import SCHEMA_VERSION, JobSpec, RunRecord
from bench.training import CHECKPOINT_DIR, TrainSpec

PARTIAL = ".partial"
RECORD = "record.json"
LOG = "job.log"
REPORT = "report.md"
_OWNER = "owner"
_RECORD_MIB = 64  # record, report and log, with room


@dataclass(frozen=True)
class RunDirectory:
    """A run that is under way, in its partial directory."""

    run_id: str
    path: Path
    made_out: bool = False

    @property
    def log(self) -> Path:
        return self.path / LOG

    def publish(self, record: RunRecord, report: str) -> Path:
        """Write the record and the report, and make the run visible by one rename.

        Raises:
            UsageFault: the disk is full or not writable; nothing is left behind.
        """
        published = self.path.with_name(self.run_id)
        try:
            _write_durably(self.path / RECORD, to_json(record))
            _write_durably(self.path / REPORT, report)
            (self.path / _OWNER).unlink(missing_ok=True)
            owner = caller.sudo_caller(os.environ)
            if owner is not None:
                caller.give(self.path, owner)
                if self.made_out:
                    os.chown(self.path.parent, *owner)
            self.path.rename(published)
        except OSError as error:
            if (self.path / CHECKPOINT_DIR).is_dir():  # hours of training are not thrown away
                raise UsageFault(
                    f"cannot publish the run in {self.path}: {error.strerror or error}",
                    hint=f"its checkpoint is kept: invoke train --resume {self.path}",
                ) from error
            self.discard()
            raise _cannot_write(self.path.parent, error) from error
        return published

    def discard(self) -> None:
        """Leave nothing behind, not even the directory of runs where it was made for this one."""
        untrusted.remove(self.path)
        if self.made_out:
            with contextlib.suppress(OSError):  # another run is in it
                self.path.parent.rmdir()


def create(out: Path, spec: AnySpec) -> RunDirectory:
    """A new partial run directory under ``out`` with its spec.json.

    Raises:
        UsageFault: ``out`` cannot be written or is full.
    """
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    what = spec.model if spec.kind == "bench" else f"{spec.model}-{spec.kind}"
    run_id = f"{stamp}-{what}-{secrets.token_hex(2)}"
    path = out.absolute() / f"{run_id}{PARTIAL}"
    directory = RunDirectory(run_id, path)
    try:
        directory = RunDirectory(run_id, path, made_out=not out.exists())
        path.mkdir(parents=True)
        (path / _OWNER).write_text(owners.mine())
        _write_durably(path / SPEC_FILE, to_json(spec))
    except OSError as error:
        directory.discard()
        raise _cannot_write(out, error) from error
    return directory


def needed_mib(spec: AnySpec) -> int:
    """The free space a run wants: its own files, and the float64 reference while it runs."""
    if isinstance(spec, TrainSpec):
        # Two checkpoints at a time, each of the weights and AdamW's two moments, in float32.
        vocabulary = 50_257 if spec.init_sha256 else 1_024
        blocks = 12 * spec.n_layer * spec.n_embd**2
        weights = blocks + (vocabulary + spec.block_size) * spec.n_embd
        return _RECORD_MIB + 2 * 3 * 4 * weights // 2**20
    if not isinstance(spec, JobSpec) or spec.kind == "compile":
        return _RECORD_MIB
    rows = GATED_STEPS + 1 if spec.mode == "decode" else spec.seq_len
    logits = spec.batch_size * rows * spec.geometry.vocab_size
    return _RECORD_MIB + GATED_CALLS * logits * 8 // 2**20


def read_record(path: Path) -> RunRecord:
    """The record at ``path``, validated.

    Raises:
        UsageFault: missing, damaged (the line is named), or of a newer schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(f"cannot read {path}: {error}", hint="invoke results") from error
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(path, error.lineno, error.msg) from error
    except (RecursionError, ValueError) as error:  # nested too deep, a number of 5,000 digits
        raise _damaged(path, 1, str(error)) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UsageFault(
            f"{path} has schema_version {version}; this version reads up to {SCHEMA_VERSION}",
            hint="update gpt-frontend: git pull",
        )
    try:
        return RunRecord.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        line = _line_of(text, first["loc"])
        raise _damaged(path, line, f"{where or 'record'}: {first['msg']}") from error


def listed(out: Path) -> Iterator[Path]:
    """The published run directories under ``out``, oldest first."""
    if not out.is_dir():
        return
    for path in sorted(out.iterdir()):
        if path.is_dir() and path.suffix != PARTIAL and (path / RECORD).is_file():
            yield path


def find(out: Path, run: str, *, holding: str | None = None) -> Path:
    """The published run called ``run``: its id, an unambiguous part of it, ``last``, or a path.

    ``holding`` leaves only the runs to choose from whose directory has that in it.

    Raises:
        UsageFault: none or several fit.
    """
    if (Path(run) / RECORD).is_file():
        return Path(run)
    known = [path for path in listed(out) if holding is None or (path / holding).exists()]
    fits = known[-1:] if run == "last" else [path for path in known if run in path.name]
    exact = [path for path in fits if path.name == run]
    if len(exact or fits) == 1:
        return (exact or fits)[0]
    problem = f"'{run}' fits {len(fits)} runs" if fits else f"no run '{run}' under {out}/"
    raise UsageFault(problem, hint="`invoke results` lists them; `last` names the newest")


def check_writable(out: Path, spec: AnySpec) -> None:
    """Refuse ``out`` before an image is built for nothing; leaves nothing behind.

    Raises:
        UsageFault: ``out``, or the nearest directory above it that is there, is not writable,
            or has too little room for the run.
    """
    try:
        nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(20, "not a directory")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
        free_mib = shutil.disk_usage(nearest).free // 2**20
        if free_mib < needed_mib(spec):
            raise OSError(f"{free_mib} MiB are free, the run needs {needed_mib(spec)}")
    except OSError as error:
        raise _cannot_write(out, error) from error


def remove_stale(path: Path) -> None:
    """Remove an abandoned partial directory."""
    untrusted.remove(path)


def stale(out: Path) -> Iterator[Path]:
    """Partial directories whose host process is gone (killed, or the machine went down)."""
    if not out.is_dir():
        return
    for path in sorted(out.glob(f"*{PARTIAL}")):
        try:
            owner = untrusted.read(path / _OWNER, 256).decode()
        except (OSError, UnicodeDecodeError):
            owner = ""
        if not owners.alive(owner):
            yield path


def to_json(model: BaseModel) -> str:
    """``model`` as indented JSON: for people to read and for errors to name a line of."""
    return model.model_dump_json(indent=2) + "\n"


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _line_of(text: str, location: tuple[int | str, ...]) -> int:
    """The line of the innermost key of ``location`` that stands in ``text``."""
    position = 0
    for part in location:
        found = re.compile(rf'"{re.escape(str(part))}"\s*:').search(text, position)
        if isinstance(part, str) and found:
            position = found.start()
    return text.count("\n", 0, position) + 1


def _damaged(path: Path, line: int, what: str) -> UsageFault:
    return UsageFault(
        f"{path}, line {line}: {what}",
        hint="the file is damaged or edited; remove its directory, or run the job again",
    )


def _cannot_write(out: Path, error: OSError) -> UsageFault:
    return UsageFault(
        f"cannot write to {out}: {error.strerror or error}",
        hint="name a directory you may write, with free space: --out DIR",
    )
