"""From what profilers say to a table and a trace: with events that are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.job.profile import kineto, table, trace
from bench.job.profile.events import Event, Recording, own_times, shapes_of
from bench.job.profile.instrument import Instrument
from bench.operators import KINDS, OTHER_KIND, TRACE_FILE, kind_of

# linear(0-100) calls transpose(10-15) and addmm(20-90), which calls copy(30-40); then gelu.
NESTED = [
    Event("addmm", 20, 70, shapes="4x8, 8x2"),
    Event("linear", 0, 100),
    Event("transpose", 10, 5),
    Event("copy", 30, 10),
    Event("gelu", 100, 50),
]


def test_an_operator_has_its_own_time_without_that_of_what_it_calls() -> None:
    own = {event.name: us for event, us in own_times(NESTED)}
    assert own == {"linear": 25, "transpose": 5, "addmm": 60, "copy": 10, "gelu": 50}
    assert sum(own.values()) == 150  # the time that the thread was in any of them


def test_threads_do_not_hide_each_other() -> None:
    beside = [Event("a", 0, 10), Event("b", 2, 5, thread=7), Event("c", 2, 5, on_gpu=True)]
    assert sorted((event.name, us) for event, us in own_times(beside)) == [
        ("a", 10), ("b", 5), ("c", 5),
    ]  # fmt: skip


@st.composite
def nested(draw: st.DrawFn) -> list[Event]:
    """Properly nested events of one thread, whole microseconds, in any order."""
    events: list[Event] = []

    def fill(begin: int, end: int, depth: int) -> None:
        at = begin
        while depth < 4 and end - at > 0 and draw(st.booleans()):
            start = draw(st.integers(at, end))
            stop = draw(st.integers(start, end))
            events.append(Event(draw(st.sampled_from("abc")), start, stop - start))
            fill(start, stop, depth + 1)
            at = stop

    fill(0, draw(st.integers(0, 100)), 0)
    return draw(st.permutations(events))


@given(nested())
def test_own_times_add_up_to_the_time_in_any_operator(events: list[Event]) -> None:
    covered = {us for event in events for us in range(int(event.start_us), int(event.end_us))}
    found = list(own_times(events))
    assert len(found) == len(events)
    assert all(us >= 0 for _, us in found)
    assert sum(us for _, us in found) == len(covered)


def test_the_table_is_of_the_median_call_and_its_operators_add_up() -> None:
    slow = Recording([Event("linear", 0, 900)], 1000)
    fast = Recording([Event("linear", 0, 10)], 20)
    found = table.of([slow, Recording(NESTED, 200), fast], "a profiler")
    assert (found.calls, found.call_ms, found.profiler) == (3, 0.2, "a profiler")
    assert [(one.name, one.shapes, one.calls, one.total_ms) for one in found.operators] == [
        ("addmm", "4x8, 8x2", 1, 0.06),
        ("gelu", None, 1, 0.05),
        ("linear", None, 1, 0.025),
        ("copy", None, 1, 0.01),
        ("transpose", None, 1, 0.005),
    ]
    assert sum(one.total_ms for one in found.operators) <= found.call_ms


def test_one_name_with_two_shapes_is_two_operators_and_twice_the_same_is_one() -> None:
    events = [Event("mm", at, 10, shapes=shapes) for at, shapes in ((0, "1"), (10, "2"), (20, "1"))]
    found = table.of([Recording(events, 30)], "p")
    assert [(one.shapes, one.calls) for one in found.operators] == [("1", 2), ("2", 1)]


def test_on_a_gpu_its_kernels_are_counted_and_not_the_host_that_waits_for_them() -> None:
    events = [Event("aten::mm", 0, 100), Event("sgemm", 20, 70, thread=7, on_gpu=True)]
    found = table.of([Recording(events, 110)], "p")
    assert [one.name for one in found.operators] == ["sgemm"]


def test_shapes_are_told_and_scalars_are_not() -> None:
    assert shapes_of([[64, 768], [], [768, 3072]]) == "64x768, 768x3072"
    assert shapes_of([[], []]) is None


def recordings() -> list[Recording]:
    gpu = Event("sgemm <b>\x1b[2J", 20, 70, thread=7, on_gpu=True)
    return [Recording([*NESTED, gpu], 160), Recording([Event("late", -0.2, 170.4, thread=3)], 170)]


def test_a_trace_is_what_viewers_read(tmp_path: Path) -> None:
    trace.add(tmp_path, tmp_path, 1, "torch-eager", recordings())
    trace.add(tmp_path, tmp_path, 2, "tvm-optimized", [Recording([], 5)])

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    whole = json.loads((tmp_path / TRACE_FILE).read_text(), parse_constant=refuse)
    events = whole["traceEvents"]
    for event in events:
        assert {"name", "ph", "ts", "pid", "tid", "args"} <= set(event)
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert event["ph"] in "MX" and event["ts"] >= 0
        assert event["ph"] == "M" or event["dur"] >= 0
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "torch-eager", 2: "tvm-optimized"}
    threads = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1]
    assert threads == ["host", "host 1", "GPU stream 2"]
    for pid in names:
        at = [event["ts"] for event in events if event["pid"] == pid and event["ph"] == "X"]
        assert at == sorted(at) and at[0] == 0, "each backend begins at 0"
    calls = [e for e in events if e["name"].startswith("call ") and e["pid"] == 1]
    assert [call["ts"] for call in calls] == [0, 160]
    assert not list(tmp_path.glob("*.partial"))


def test_the_operators_of_a_call_lie_within_it_in_the_trace() -> None:
    found = trace.events(1, "x", [Recording(NESTED, 160), Recording(NESTED, 155)])
    ran = [event for event in found if event["ph"] == "X"]
    calls = [event for event in ran if event["cat"] == "call"]
    assert [call["name"] for call in calls] == ["call 1", "call 2"]
    for event in ran:
        assert any(
            call["ts"] <= event["ts"] and event["ts"] + event["dur"] <= call["ts"] + call["dur"]
            for call in calls
        )
    assert next(e for e in ran if e["name"] == "addmm")["args"] == {"shapes": "4x8, 8x2"}


def of_torch(name: str, start: float, end: float, kind: str = "CPU", **more: Any) -> Any:
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        device_type=SimpleNamespace(name=kind),
        is_user_annotation=more.get("annotation", False),
        thread=1,
        device_resource_id=more.get("stream", 1),
        input_shapes=more.get("shapes"),
    )


def test_pytorchs_events_are_told_by_call_and_annotations_are_no_kernels() -> None:
    call = kineto._CALL
    found = [
        of_torch("before", 5, 8),
        of_torch(call, 10, 50, annotation=True),
        of_torch(call, 22, 45, "CUDA", annotation=True),
        of_torch("## Call CompiledFxGraph abc ##", 12, 40, annotation=True),
        of_torch("aten::mm", 14, 20, shapes=[[2, 3], [], [3, 4]]),
        of_torch("sgemm", 22, 45, "CUDA", stream=7),
        of_torch(call, 60, 90, annotation=True),
        of_torch("aten::add", 61, 70),
    ]
    first, second = kineto.split(found)
    assert (first.duration_us, second.duration_us) == (40, 30)
    assert first.events == [
        Event("CompiledFxGraph", 2, 28, thread=1),
        Event("aten::mm", 4, 6, thread=1, shapes="2x3, 3x4"),
        Event("sgemm", 12, 23, thread=7, on_gpu=True),
    ]
    assert [event.name for event in second.events] == ["aten::add"]


def test_the_instrument_tells_nested_calls_and_waits_for_the_device() -> None:
    waited: list[None] = []
    instrument = Instrument(lambda: waited.append(None))
    tensor = SimpleNamespace(shape=(2, 3))

    def call() -> None:
        instrument(None, "main", True, None)
        instrument(None, "matmul", True, None, tensor, 5, tensor)
        instrument(None, "matmul", False, None, tensor, 5, tensor)
        instrument(None, "vm.builtin.reshape", True, None, tensor)
        instrument(None, "vm.builtin.reshape", False, None, tensor)
        instrument(None, "main", False, None)

    going = iter([True, False])
    recordings = instrument.record(call, lambda: next(going))
    assert len(recordings) == 2
    for recording in recordings:
        by_name = {event.name: event for event in recording.events}
        assert by_name["matmul"].shapes == "2x3, 2x3" and by_name["main"].shapes is None
        assert by_name["vm.builtin.reshape"].shapes is None
        assert by_name["main"].start_us <= by_name["matmul"].start_us
        assert by_name["main"].end_us >= by_name["vm.builtin.reshape"].end_us
        assert recording.duration_us >= by_name["main"].duration_us
    assert len(waited) == 2 * (6 + 2)


@pytest.mark.parametrize(
    ("kind", "names"),
    {
        "products": "aten::addmm aten::bmm mkl::_mkl_linear linear_64x768x768_bias matmul5 "
        "fused_matmul_add1 ampere_sgemm_128x64_tn",
        "attention": "softmax_48x16 aten::_scaled_dot_product_flash_attention_for_cpu",
        "norm": "layer_norm_64x768 cpp_fused_add_addmm_native_layer_norm_view_4",
        "elementwise": "aten::gelu cpp_fused_addmm_gelu_view_2 triton_poi_fused_addmm_gelu_3",
        "layout": "aten::copy_ aten::t transpose9 fused_reshape_transpose",
        "lookup": "gather_64x768 take aten::embedding",
        "runtime": "vm.builtin.reshape CompiledFxGraph cudaLaunchKernel",
        OTHER_KIND: "trilu",
    }.items(),
)
def test_a_name_says_what_an_operator_is_for(kind: str, names: str) -> None:
    assert {kind_of(name) for name in names.split()} == {kind}
    assert kind in KINDS or kind == OTHER_KIND
