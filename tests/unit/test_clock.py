"""CUDA events beside the host's clock: what is recorded when, on which stream, and when not.

There is no GPU where these run: the events are stand-ins, all that asks them is the real thing.
``tests/gpu`` has the same on a real one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.host import report
from bench.job import clock, measure, modes, rounds
from bench.job.backends import onnxruntime, torch_eager
from bench.job.backends.base import Streamed
from bench.job.compile import names
from bench.job.measure import SamplingPlan
from bench.job.warmup import WarmupPlan
from bench.latency import Latency
from bench.record import JobSpec, Result, RunRecord
from tests.unit.samples import PARITY, record

CALL_MS = 1.5  # by the device's clock
COLD = SamplingPlan(least=4, most=4, for_s=0.0, warmup=WarmupPlan(0.0, 0.0))


class Gpu:
    """A GPU's stream as ``torch.cuda`` shows it: whatever is asked of it is written down.

    Its time goes on only by a call's work, and an event has a time once the stream has been
    waited for, as a real one has.
    """

    def __init__(self, stream: int = 0, available: bool = True) -> None:
        self.seen: list[str] = []
        self.now_ms = 0.0
        self.behind: list[Any] = []
        self._stream = SimpleNamespace(cuda_stream=stream)
        self._available = available
        self._events = 0

    def is_available(self) -> bool:
        return self._available

    def current_stream(self, device: object = None) -> Any:
        return self._stream

    def Event(self, enable_timing: bool = False) -> Event:  # noqa: N802 - torch's name
        assert enable_timing, "an event without timing cannot be asked for a time"
        self._events += 1
        return Event(self, "first" if self._events == 1 else "last")

    def work(self) -> None:
        self.seen.append("call")
        self.behind.append(CALL_MS)

    def wait(self) -> None:
        for one in self.behind:
            if isinstance(one, Event):
                one.at_ms = self.now_ms
            else:
                self.now_ms += one
        self.behind = []


class Event:
    def __init__(self, gpu: Gpu, name: str) -> None:
        self._gpu, self._name = gpu, name
        self.at_ms: float | None = None

    def record(self, stream: Any) -> None:
        assert stream is self._gpu.current_stream()
        self._gpu.seen.append(f"record {self._name}")
        self.at_ms = None
        self._gpu.behind.append(self)

    def synchronize(self) -> None:
        self._gpu.wait()

    def elapsed_time(self, end: Event) -> float:
        if self.at_ms is None or end.at_ms is None:
            raise RuntimeError("CUDA error: device not ready")
        self._gpu.seen.append("elapsed")
        return end.at_ms - self.at_ms


class OnGpu:
    """A backend that runs on ``gpu``, and says that it is on ``stream``."""

    def __init__(self, gpu: Gpu, stream: int | None = 0) -> None:
        self._gpu, self._stream = gpu, stream

    def cuda_stream(self) -> int | None:
        return self._stream

    def stage(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def run(self, program: str, *staged: Any) -> tuple[Any, ...]:
        self._gpu.work()
        return staged

    def view(self, value: Any) -> torch.Tensor:
        return torch.as_tensor(value)

    def synchronize(self) -> None:
        self._gpu.seen.append("synchronize")
        self._gpu.wait()


def test_events_stand_right_around_the_call_and_are_read_when_the_device_is_done() -> None:
    gpu = Gpu()
    ready = OnGpu(gpu)
    beside = clock.beside(ready, "cuda", gpu)
    assert gpu.seen == ["record first", "record last"]  # made before anything is timed
    gpu.seen.clear()
    taken = measure.sample(gpu.work, ready.synchronize, COLD, clock=beside)
    assert gpu.seen == [
        "synchronize", "record first", "call", "record last", "synchronize", "elapsed",
    ] * 4  # fmt: skip
    assert taken.latency.device_ms == [CALL_MS] * 4  # milliseconds, as elapsed_time gives them
    assert taken.latency.clock == "host and CUDA events"
    # The stand-in's calls take no time of the host's: its samples are not the device's.
    assert max(taken.latency.samples) < CALL_MS and len(taken.latency.samples) == 4


def test_a_mode_asks_for_events_where_the_spec_is_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu()
    for name in ("is_available", "current_stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    spec = JobSpec(model="gpt-nano", seq_len=8, device="cuda")
    figures = modes.start(spec, OnGpu(gpu)).measure(COLD)
    assert figures["latency_ms"].device_ms == pytest.approx([CALL_MS] * 4)
    on_cpu = spec.model_copy(update={"device": "cpu"})
    figures = modes.start(on_cpu, OnGpu(gpu)).measure(COLD)
    assert (figures["latency_ms"].device_ms, figures["latency_ms"].clock) == (None, "host")


@pytest.mark.parametrize(
    ("theirs", "gpu", "why"),
    [
        (None, Gpu(), "does not tell which stream"),
        (0, Gpu(available=False), "sees no GPU"),
        (0xAB, Gpu(), "runs on stream 0xab, PyTorch on 0x0"),
        (0, Gpu(stream=7), "runs on stream 0x0, PyTorch on 0x7"),
    ],
)
def test_where_the_stream_is_not_ours_the_host_times_alone_and_it_is_said(
    theirs: int | None, gpu: Gpu, why: str
) -> None:
    ready = OnGpu(gpu, theirs)
    taken = measure.sample(
        gpu.work, ready.synchronize, COLD, clock=clock.beside(ready, "cuda", gpu)
    )
    assert not {"record first", "record last", "elapsed"} & set(gpu.seen)
    assert taken.latency.device_ms is None and len(taken.latency.samples) == 4
    assert taken.latency.clock is not None
    assert taken.latency.clock.startswith("host; no CUDA events: ") and why in taken.latency.clock


def test_a_backend_that_cannot_be_asked_is_timed_by_the_host_alone() -> None:
    ready = onnxruntime.OnnxReady(None, {})
    assert not isinstance(ready, Streamed)
    assert "does not tell" in clock.beside(ready, "cuda", Gpu()).name


def test_backends_tell_their_stream_and_none_on_a_cpu() -> None:
    import tvm

    ready: object = torch_eager.TorchReady({}, "cpu")
    assert isinstance(ready, Streamed)
    assert ready.cuda_stream() is None
    assert names.cuda_stream(tvm.device("cpu", 0)) is None
    # Nobody has set one: what TVM launches on is the legacy default stream, and PyTorch's too.
    assert names.cuda_stream(tvm.device("cuda", 0)) == 0


def latency(device_ms: list[float] | None, name: str = "host and CUDA events") -> Latency:
    return Latency.of([2.0, 2.2, 2.1], device_ms=device_ms, clock=name)


def row(taken: Latency) -> Result:
    blank = Result.blank("tvm-optimized", JobSpec(device="cuda"))
    return blank.model_copy(update={"parity": PARITY, "latency_ms": taken})


def test_processes_are_joined_with_what_the_device_saw_of_each() -> None:
    one = rounds.numbered(row(latency([1.0, 1.1, 1.2])), 0, 0)
    two = rounds.numbered(row(latency([1.3, 1.4, 1.5])), 1, 4)
    both = rounds.joined(one, two).latency_ms
    assert both is not None and both.device_ms == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert (both.process, both.clock) == ([0] * 3 + [1] * 3, "host and CUDA events")
    why = "host; no CUDA events: the backend does not tell"
    blind = row(latency(None, why))
    for pair in ((one, rounds.numbered(blind, 1, 4)), (rounds.numbered(blind, 0, 0), two)):
        mixed = rounds.joined(*pair).latency_ms
        assert mixed is not None and (mixed.device_ms, mixed.clock) == (None, why)


@pytest.mark.parametrize("device_ms", [[1.0, 1.0], [1.0] * 4, [1.0, -1.0, 1.0], [1.0, np.inf, 1.0]])
def test_times_that_do_not_belong_to_the_samples_are_refused(device_ms: list[float]) -> None:
    with pytest.raises(ValidationError, match="device_ms"):
        latency(device_ms)


def test_a_record_of_before_has_neither_and_loads() -> None:
    kept = record().model_dump(mode="json")
    for result in kept["results"]:
        del result["latency_ms"]["device_ms"], result["latency_ms"]["clock"]
    (loaded, *_) = RunRecord.model_validate(kept).results
    assert loaded.latency_ms is not None
    assert (loaded.latency_ms.device_ms, loaded.latency_ms.clock) == (None, None)


def test_reports_have_the_device_s_time_beside_the_host_s() -> None:
    plain = record()
    assert "device ms" not in report.markdown(plain) and not report.on_device(plain)
    silent = row(latency(None, "host; no CUDA events: \x1b[31mwhy")).model_copy(
        update={"backend": "torch-eager"}
    )
    found = plain.model_copy(update={"results": [row(latency([1.0, 1.1, 1.05])), silent]})
    text = report.markdown(found)
    assert "| device ms |" in text and "| 1.050 |" in text and "by the device's own clock" in text
    first, second = report.on_device(found)
    assert first == (
        "tvm-optimized: 1.050 of 2.100 ms on the device (host and CUDA events), gaps "
        "between kernels included; 50% lies before and after"
    )
    assert second.startswith("torch-eager: timed by one clock (host; no CUDA events: ")
    assert "\x1b" not in second
    assert {first, second} <= set(report.sentences(found))
