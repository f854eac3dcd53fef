"""What tuning found, in the artefact store: by TVM build and target, and in it by program.

    <store>/tuning/<key>/key.json                     what the key stands for
    <store>/tuning/<key>/database_workload.json       MetaSchedule's: kernels, a line each
    <store>/tuning/<key>/database_tuning_record.json  and every schedule that ran, a line each
    <store>/tuning/<key>/<program>/trials.jsonl       all trials for a model's program, failed too
    <store>/tuning/<key>/<program>/best.json          what ``tvm-tuned`` takes for it

A model of two programs (decoding) has its trials in a directory of both, its bests in one each.

Lines are appended, and a writer that is killed leaves half of one at most, which the next one cuts
off. best.json is replaced by one rename. One writer at a time holds the directory's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import NotHere, UsageFault
from bench.job import artefacts
from bench.record import JobSpec
from bench.tuning import TUNING_DIR, Trial

WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"
TRIALS = "trials.jsonl"
BEST = "best.json"
_KEY_LENGTH = 16


class NotTuned(NotHere):
    """``tvm-tuned`` has nothing to take."""


class Damaged(UsageFault):
    """A file of the database that is not what this module writes; no other is made of it."""


@dataclass(frozen=True)
class Best:
    """A program's ``best.json``: for each task its times, and a trace where tuned is faster.

    ``tasks`` has ``hand_ms``, ``tuned_ms`` and ``trace`` by the task's key; ``digest`` is the
    sha256 of the file.
    """

    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    digest: str | None = None

    @property
    def traces(self) -> dict[str, Any]:
        """The schedules to use, by task."""
        return {key: one["trace"] for key, one in self.tasks.items() if one.get("trace")}


@dataclass(frozen=True)
class Database:
    """The database of one TVM build and target."""

    path: Path
    key: Mapping[str, Any]

    def prepare(self) -> None:
        """Make the directory, and cut off what a killed writer left half written."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "key.json").write_text(json.dumps(self.key, indent=2, sort_keys=True) + "\n")
        for name in (WORKLOADS, RECORDS):
            repair(self.path / name)

    def program(self, program: str) -> Path:
        """The directory of a program, by its ``program_key``."""
        return self.path / program

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out; the kernel frees the lock of a process that is killed.

        Raises:
            UsageFault: another run is tuning for this TVM and target, or no lock can be had: two
                writers at once would spoil each other's lines.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageFault(
                    "another run is tuning for this TVM and target",
                    hint="wait for it, or end it: Ctrl-C there keeps what it measured",
                ) from None
            except OSError as error:
                raise UsageFault(
                    f"cannot lock {self.path}: {error.strerror or error}",
                    hint="set GPT_FRONTEND_STORE to a directory on a file system with locks",
                ) from error
            yield
        finally:
            os.close(handle)

    def log(self, programs: Sequence[str]) -> Path:
        """Where the trials of a model's programs, named by their keys, are kept together."""
        if len(programs) == 1:
            return self.program(programs[0])
        return self.program(program_key({"programs": list(programs)}))

    def read(self, program: str, spec: JobSpec) -> Best:
        """What ``tvm-tuned`` takes for a program.

        Raises:
            NotTuned: nothing was tuned for this TVM, target and model.
            Damaged: what was found cannot be read.
        """
        best = read_best(self.path / program)
        if best.digest is None:
            raise NotTuned(
                f"nothing is tuned for {spec.model} {spec.mode}, batch {spec.batch_size}, "
                f"{spec.seq_len} tokens, by TVM {self.key['tvm']} for "
                f"{self.key['target']['mcpu']} with {self.key['target']['cores']} threads",
                hint=f"tune it first: invoke tune --model {spec.model} --mode {spec.mode} "
                f"--batch-size {spec.batch_size} --seq-len {spec.seq_len}",
            )
        return best


def of(root: Path, tvm: str, target: Mapping[str, Any]) -> Database:
    """The database in the store ``root`` for a TVM build id and a target."""
    key = {"tvm": tvm, "target": dict(target)}
    return Database(root / TUNING_DIR / artefacts.key_of(key)[:_KEY_LENGTH], key)


def program_key(parts: Mapping[str, Any]) -> str:
    """The directory of a program, from all that decides its kernels."""
    return artefacts.key_of(parts)[:_KEY_LENGTH]


def read_best(directory: Path) -> Best:
    """A program's best.json; an empty one where there is none.

    Raises:
        Damaged: it is not what ``write_best`` writes.
    """
    path = directory / BEST
    try:
        content = path.read_bytes()
        tasks = json.loads(content)["tasks"]
        return Best({str(key): dict(one) for key, one in tasks.items()}, _sha256(content))
    except FileNotFoundError:
        return Best()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"cannot read {path}: {type(error).__name__}: {error}",
            hint=f"rm {path}; then tune again: what was measured is kept beside it",
        ) from error


def write_best(directory: Path, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace a program's best.json."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{BEST}.partial"
    partial.write_text(json.dumps({"tasks": tasks}, sort_keys=True) + "\n")
    partial.replace(directory / BEST)


def read_trials(directory: Path) -> list[Trial]:
    """All trials of a program so far, in order. What follows the last line break is none.

    Raises:
        Damaged: a line is no trial.
    """
    path = directory / TRIALS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1]  # a killed writer leaves half a line at most
    try:
        return [Trial.model_validate_json(line) for line in whole.splitlines()]
    except ValidationError as error:
        raise Damaged(
            f"cannot read {path}: {str(error).splitlines()[0]}",
            hint=f"rm {path}; the schedules found are kept beside it",
        ) from error


def spent_s(trials: Sequence[Trial]) -> float:
    """How long all searches for a model's programs took, to the last trial that was kept."""
    return trials[-1].at_s if trials else 0.0


def append_trial(directory: Path, trial: Trial) -> None:
    """Keep a trial: it is on the disk's way before the next one begins."""
    with (directory / TRIALS).open("ab", buffering=0) as file:
        file.write(trial.model_dump_json().encode() + b"\n")


def repair(path: Path) -> int:
    """Cut off what follows the last whole line of JSON; how many bytes that was."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    whole = content[: content.rfind(b"\n") + 1]
    rest = content[len(whole) :]
    if rest and _is_json(rest):  # whole, but for its line break
        path.write_bytes(content + b"\n")
        return 0
    while whole and not _is_json(whole.splitlines()[-1]):
        whole = whole[: whole.rstrip(b"\n").rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return len(content) - len(whole)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
