"""Recorded calls as a Chrome trace, which Perfetto and chrome://tracing show as a timeline.

The JSON object form of Google's "Trace Event Format" document: metadata events (``ph`` M) name
the processes and threads, complete events (``ph`` X) have ``ts`` and ``dur`` in microseconds.
Every backend is a process of its own and begins at 0, so that they stand under each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.job.profile.events import Recording
from bench.operators import TRACE_FILE

_HOST, _GPU = "operator", "gpu kernel"


def add(
    directory: Path, scratch: Path, pid: int, name: str, recordings: Sequence[Recording]
) -> None:
    """Put a backend's calls into the trace in ``directory``, beside those that are there.

    It is replaced by one rename, so that it is whole whenever the job ends. ``scratch`` is of
    the same file system.
    """
    path = directory / TRACE_FILE
    whole: dict[str, Any] = {"displayTimeUnit": "ms", "traceEvents": []}
    if path.is_file():
        whole = json.loads(path.read_text(encoding="utf-8"))
    whole["traceEvents"] += events(pid, name, recordings)
    partial = scratch / f"{TRACE_FILE}.partial"
    partial.write_text(json.dumps(whole, allow_nan=False, separators=(",", ":")), encoding="utf-8")
    partial.replace(path)


def events(pid: int, name: str, recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """The trace events of one process: its names, then what ran, in the order of time.

    The calls follow one another without a pause. Each is an event itself, around its operators.
    """
    threads = _threads(recordings)
    named = [
        _metadata(pid, 0, "process_name", name=name),
        _metadata(pid, 0, "process_sort_index", sort_index=pid),
    ]
    for (on_gpu, _), tid in threads.items():
        title = f"GPU stream {tid}" if on_gpu else f"host {tid}" if tid else "host"
        named.append(_metadata(pid, tid, "thread_name", name=title))
        named.append(_metadata(pid, tid, "thread_sort_index", sort_index=tid))
    ran = list(_ran(pid, recordings, threads))
    return named + sorted(ran, key=lambda event: (event["ts"], -event["dur"]))


def _ran(
    pid: int, recordings: Sequence[Recording], threads: dict[tuple[bool, int], int]
) -> Iterator[dict[str, Any]]:
    begin = 0.0
    for number, recording in enumerate(recordings, start=1):
        yield _complete(pid, 0, f"call {number}", "call", begin, recording.duration_us, {})
        for event in recording.events:
            yield _complete(
                pid,
                threads[event.on_gpu, event.thread],
                event.name,
                _GPU if event.on_gpu else _HOST,
                begin + event.start_us,
                event.duration_us,
                {"shapes": event.shapes} if event.shapes else {},
            )
        begin += max([recording.duration_us, *(event.end_us for event in recording.events)])


def _threads(recordings: Sequence[Recording]) -> dict[tuple[bool, int], int]:
    """A small number for each thread: the host's first, and the one that made the call as 0."""
    seen = [
        event
        for recording in recordings
        for event in sorted(recording.events, key=lambda event: event.start_us)
    ]
    host = dict.fromkeys((False, event.thread) for event in seen if not event.on_gpu)
    gpu = dict.fromkeys((True, event.thread) for event in seen if event.on_gpu)
    return {key: tid for tid, key in enumerate([*(host or [(False, 0)]), *gpu])}


def _metadata(pid: int, tid: int, what: str, **arguments: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": arguments}


def _complete(
    pid: int,
    tid: int,
    name: str,
    category: str,
    start_us: float,
    duration_us: float,
    arguments: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": round(max(0.0, start_us), 3),  # nanoseconds, as the clocks have them
        "dur": round(duration_us, 3),
        "pid": pid,
        "tid": tid,
        "args": arguments,
    }
