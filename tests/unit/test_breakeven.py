"""When compiling has paid for itself."""

from __future__ import annotations

import math

import pytest

from bench.host import breakeven, report
from bench.host.breakeven import Cost, calls
from tests.unit.samples import record, result


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (Cost(30.0, 0.010), Cost(10.0, 0.020), 2000),
        (Cost(10.0, 0.3), Cost(9.0, 0.6), 4),  # 3.33 calls are not enough
        (Cost(10.0, 0.010), Cost(10.0, 0.020), 0),
        (Cost(5.0, 0.010), Cost(10.0, 0.020), 0),
        (Cost(5.0, 0.020), Cost(10.0, 0.020), math.inf),
        (Cost(5.0, 0.030), Cost(10.0, 0.020), math.inf),
    ],
)
def test_what_was_spent_over_what_a_call_saves(ours: Cost, theirs: Cost, expected: float) -> None:
    assert calls(ours, theirs) == expected


def test_a_run_with_both_rows_says_when() -> None:
    rows = [
        result("tvm-optimized", 10.0).model_copy(update={"compile_s": 30.0}),
        result("torch-compile", 20.0).model_copy(update={"compile_s": 10.0}),
    ]
    both = record().model_copy(update={"results": rows})
    (line,) = breakeven.lines(both)
    assert line.startswith("break-even: after 2,000 calls of tvm-optimized, each 10.00 ms shorter;")
    assert line in report.sentences(both)
    assert breakeven.lines(record().model_copy(update={"results": rows[:1]})) == []
    found = {"compile_s": 30.0, "tuning_s": 600.0}
    tuned = result("tvm-tuned", 8.0).model_copy(update=found)
    _, line = breakeven.lines(record().model_copy(update={"results": [*rows, tuned]}))
    assert line.startswith("break-even: after 51,667 calls of tvm-tuned, each 12.00 ms shorter;")
    assert "tvm-tuned compiles in 30.0 s after 600 s of tuning, torch-compile in 10.0 s" in line
    slower = rows[1].model_copy(update={"latency_ms": result("torch-compile", 5.0).latency_ms})
    (line,) = breakeven.lines(record().model_copy(update={"results": [rows[0], slower]}))
    assert line.startswith("break-even: never")
