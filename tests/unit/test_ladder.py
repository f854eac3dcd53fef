"""The ladder: its rungs in order, and what each is worth."""

from __future__ import annotations

import pytest

from bench.catalog import AFTER, BACKENDS, BEFORE, LADDER, RUNGS, TUNED, WEIGHT_ONLY
from bench.host import breakeven, ladder, request
from bench.record import JobSpec
from tests.unit.samples import record, result


def test_rungs_are_known_but_run_only_when_asked_for() -> None:
    assert not {*RUNGS, *TUNED, *WEIGHT_ONLY} & set(JobSpec().backends)
    asked = request.spec_from(backends=ladder.backends(None)).backends
    assert asked == (*LADDER, breakeven.COLD)


@pytest.mark.parametrize(
    ("also", "more"),
    [("torch-eager", ("torch-eager",)), (" torch-eager , tvm-none", ("torch-eager",)), ("", ())],
)
def test_what_else_is_named_comes_after_the_rungs(also: str, more: tuple[str, ...]) -> None:
    assert tuple(ladder.backends(also).split(",")) == (*LADDER, breakeven.COLD, *more)


def test_the_ladder_leads_from_before_to_after_and_on_to_other_weights() -> None:
    assert (BEFORE, *RUNGS, AFTER, *TUNED, *WEIGHT_ONLY) == LADDER
    assert {BEFORE, AFTER} <= set(BACKENDS)


def test_each_rung_is_held_against_the_one_before_it() -> None:
    plain = record()
    assert ladder.lines(plain) == []
    times = dict(
        zip(LADDER, (400.0, 200.0, 100.0, 50.0, 40.0, 20.0, 10.0, 8.0, 5.0, 4.0), strict=True)
    )
    measured = [result(name, ms) for name, ms in times.items()]
    (line,) = ladder.lines(plain.model_copy(update={"results": measured}))
    assert "tvm-none: 400.00 ms; tvm-ladder-fused: 200.00 ms, 2.00x;" in line
    assert "tvm-ladder-packed: 40.00 ms, 1.25x;" in line
    assert "tvm-optimized: 10.00 ms, 2.00x;" in line
    assert "tvm-tuned: 8.00 ms, 1.25x;" in line
    # Two ways on from the same rung, not one after the other.
    assert "tvm-bf16: 5.00 ms, 2.00x of tvm-optimized;" in line
    assert line.endswith("tvm-int8: 4.00 ms, 2.50x of tvm-optimized")


def test_rows_with_other_weights_alone_are_no_ladder() -> None:
    beside = [result(name, 5.0) for name in (AFTER, *WEIGHT_ONLY)]
    assert ladder.lines(record().model_copy(update={"results": beside})) == []
