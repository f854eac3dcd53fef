"""What a run was measured on, each fact in words: to filter runs by, and to refuse unlike ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import cores
from bench.errors import UsageFault
from bench.host import runs
from bench.record import RunRecord

UNKNOWN = "unknown"
BUILD_TYPE = "io.gpt-frontend.build.build_type"  # a label of images whose TVM is from source

# Two runs that differ in one of these are not compared unless it is allowed by name.
LIKE = (
    "kind",
    "model",
    "weights",
    "mode",
    "device",
    "batch-size",
    "seq-len",
    "dtype",
    "threads",
    "pin",
    "machine",
    "driver",
    "image",
    "tvm",
    "packages",
)


@dataclass(frozen=True)
class Difference:
    """One fact in which two runs differ. ``refused``: it makes them unlike."""

    key: str
    base: str
    new: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.base} and {self.new}"


def read(directory: Path) -> RunRecord:
    """The record of the published run in ``directory``.

    Raises:
        UsageFault: missing, damaged, of a newer schema, or built to exhaust the reader.
    """
    path = directory / runs.RECORD
    try:
        return runs.read_record(path)
    except (ValueError, RecursionError, MemoryError) as error:
        # JSON nested a hundred thousand deep, or a number of a hundred thousand digits.
        raise UsageFault(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            hint="the file is damaged or hostile; remove its directory",
        ) from error


def machine(record: RunRecord) -> str | None:
    """Processor, cores and GPU; None where the job did not get as far as to say."""
    where = record.environment
    if where is None:
        return None
    return f"{where.cpu}, {where.cores} cores" + (f", {where.gpu}" if where.gpu else "")


def tvm(record: RunRecord) -> str | None:
    """The TVM library that was loaded, by its build; None where none was."""
    where = record.environment
    return where.tvm_library.build_id if where and where.tvm_library else None


def measured(record: RunRecord) -> set[str]:
    """The names of the backends that have a latency."""
    return {result.backend for result in record.results if result.latency_ms}


def build_type(record: RunRecord) -> str | None:
    """How the image's TVM was compiled; None where it came as a wheel."""
    return record.image.labels.get(BUILD_TYPE) if record.image else None


def facts(record: RunRecord, among: Iterable[str] | None = None) -> dict[str, str]:
    """Every fact that ``differences`` looks at, those of ``LIKE`` first.

    What belongs to a backend is told of the measured ones ``among`` those named, or of all.
    """
    spec, where, image = record.spec, record.environment, record.image
    named = set(among) if among is not None else measured(record)
    found = {
        "kind": spec.kind,
        "model": spec.named,
        "weights": spec.weights.sha256 if spec.weights else "seeded",
        "mode": spec.mode,
        "device": spec.device,
        "batch-size": str(spec.batch_size),
        "seq-len": str(spec.seq_len),
        "dtype": spec.dtype,
        "threads": _threads(record, named),
        "pin": cores.listed(spec.pin) if spec.pin else "none",
        "machine": machine(record) or UNKNOWN,
        # It is part of what is measured only where the GPU is.
        "driver": str(where.driver) if where and spec.device == "cuda" else "none",
        # A tag can be given to another image; what the engine calls it cannot.
        "image": f"{image.tag} ({image.digest or image.id})" if image else "none",
        "tvm": (tvm(record) or UNKNOWN) if any(map(_is_tvm, named)) else "none",
        "packages": _packages(record),
    }
    assert tuple(found) == LIKE
    return {
        **found,
        "engine": record.engine,
        "seed": str(spec.seed),
        "memory": f"{where.memory_mib} MiB" if where else UNKNOWN,
        "kernel": where.kernel if where else UNKNOWN,
        "python": where.python if where else UNKNOWN,
        "commit": _commit(record),
    }


def differences(base: RunRecord, new: RunRecord) -> list[Difference]:
    """Every fact in which the two differ, with both values, those that make them unlike first.

    A backend that failed in one of them took no threads there and loaded no library, which is no
    other way of measuring: of those, what both measured counts.
    """
    both = measured(base) & measured(new)
    ours, theirs = facts(base, both), facts(new, both)
    return [
        Difference(key, ours[key], theirs[key], key in LIKE)
        for key in ours
        if ours[key] != theirs[key]
    ]


def _is_tvm(backend: str) -> bool:
    return backend.startswith("tvm")


def _threads(record: RunRecord, named: set[str]) -> str:
    """What the backends took; what was asked for says little, and may be: all there are."""
    rows = [result for result in record.results if result.backend in named]
    return ", ".join(sorted({str(result.threads or UNKNOWN) for result in rows})) or "none"


def _packages(record: RunRecord) -> str:
    where = record.environment
    if where is None:
        return UNKNOWN
    return ", ".join(f"{name} {version}" for name, version in sorted(where.packages.items()))


def _commit(record: RunRecord) -> str:
    where = record.environment
    if where is None or where.git_commit is None:
        return UNKNOWN
    return where.git_commit + (" (dirty)" if where.git_dirty else "")
