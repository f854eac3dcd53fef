"""PyTorch's own profiler, for what its backends run: operators on the host, kernels on a GPU."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.job.profile.events import Event, Recording, shapes_of

PROFILER = f"torch.profiler {torch.__version__}"

_CALL = "gpt-frontend: one call"
# Inductor marks a graph's call by its hash, which says nothing to a reader.
_GRAPH, _OF_GRAPH = "## Call CompiledFxGraph", "CompiledFxGraph"
_KERNEL = "cpp_fused"  # what the names of Inductor's own kernels for a CPU begin with


def record(
    call: Callable[[], object], again: Callable[[], bool], device: torch.device
) -> list[Recording]:
    """Calls of ``call``, until ``again`` says that there should be no other, with what ran in each.

    A call is over when the device is done.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _kernels_by_name(), profile(activities=activities, record_shapes=True) as profiler:
        going = True
        while going:
            with record_function(_CALL):
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            going = again()
    return split(profiler.events())


def split(found: Sequence[Any]) -> list[Recording]:
    """PyTorch's function events, by the call that they were in."""
    calls = sorted(
        (one for one in found if one.name == _CALL and not _on_gpu(one)),
        key=lambda one: one.time_range.start,
    )
    # What ran for an annotation on the host is an event of the GPU's too, under its name.
    ran = [one for one in found if one.name != _CALL and not (_on_gpu(one) and _annotates(one))]
    recordings = []
    for call in calls:
        begin, end = call.time_range.start, call.time_range.end
        within = [_event(one, begin) for one in ran if begin <= one.time_range.start <= end]
        recordings.append(Recording(within, end - begin))
    return recordings


def _event(one: Any, begin: float) -> Event:
    on_gpu = _on_gpu(one)
    return Event(
        name=_OF_GRAPH if one.name.startswith(_GRAPH) else one.name,
        start_us=one.time_range.start - begin,
        duration_us=max(0.0, one.time_range.end - one.time_range.start),
        thread=one.device_resource_id if on_gpu else one.thread,
        on_gpu=on_gpu,
        shapes=None if on_gpu else shapes_of(one.input_shapes or []),
    )


def _on_gpu(one: Any) -> bool:
    return bool(one.device_type.name == "CUDA")


def _annotates(one: Any) -> bool:
    return bool(one.is_user_annotation)


@contextlib.contextmanager
def _kernels_by_name() -> Iterator[None]:
    """Within it, Inductor's kernels for a CPU tell the profiler their names.

    Inductor itself can be asked to make them do so when it compiles them; but then they would
    not be the kernels that were timed.
    """
    plain = [
        (module, name, kernel)
        for module in _generated_modules()
        for name, kernel in vars(module).items()
        if name.startswith(_KERNEL) and callable(kernel)
    ]
    for module, name, kernel in plain:
        setattr(module, name, _told(name, kernel))
    try:
        yield
    finally:
        for module, name, kernel in plain:
            setattr(module, name, kernel)


def _generated_modules() -> list[ModuleType]:
    """The Python modules that Inductor has written and loaded; none where it was not used."""
    inductor = sys.modules.get("torch._inductor.codecache")
    return list(inductor.PyCodeCache.modules) if inductor else []


def _told(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def told(*arguments: Any) -> Any:
        with record_function(name):
            return kernel(*arguments)

    return told
