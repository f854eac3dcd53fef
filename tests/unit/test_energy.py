"""Energy of a row: counters before and after its timed calls, over the calls and their tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.host import report
from bench.job import measure, nvml, rounds, system
from bench.job.energy import LEAST_S, Meter
from bench.roofline import Energy
from bench.system import SystemState
from tests.unit.samples import record, result

RAPL = "sys/class/powercap"


def counter(root: Path, index: int, name: str, joules: float, end: float = 1000.0) -> None:
    at = root / RAPL / f"intel-rapl:{index}"
    at.mkdir(parents=True, exist_ok=True)
    for file, text in (
        ("name", name),
        ("energy_uj", str(round(joules * 1e6))),
        ("max_energy_range_uj", str(round(end * 1e6))),
    ):
        (at / file).write_text(f"{text}\n")


def meter(root: Path, times: list[float], gpus: list[list[float | None]]) -> Meter:
    """A meter of the counters under ``root``, with a clock that says these seconds."""
    ticks, used = iter(times), iter(gpus)
    return Meter(lambda: system.read_energy(root, lambda: next(used)), lambda: next(ticks))


def test_what_the_calls_used_over_their_tokens(tmp_path: Path) -> None:
    counter(tmp_path, 0, "package-0", 100.0)
    counter(tmp_path, 1, "package-1", 990.0)
    counter(tmp_path, 2, "psys", 5.0)
    used = meter(tmp_path, [10.0, 12.0], [[50.0, None], [80.0, None]])
    used.start()
    counter(tmp_path, 0, "package-0", 130.0)
    counter(tmp_path, 1, "package-1", 10.0)  # past its end: 1000
    counter(tmp_path, 2, "psys", 105.0)
    found = used.stop(calls=4, tokens_a_call=10)
    assert found is not None
    assert found.by_domain_j == pytest.approx(
        {"package-0": 30.0, "package-1": 20.0, "psys": 100.0, "gpu-0": 30.0}
    )
    assert found.calls == 4
    # The platform's counter holds the packages, and is not added to them.
    assert found.per_token_j == pytest.approx((30.0 + 20.0 + 30.0) / 40)


def test_the_platforms_counter_counts_where_it_is_alone() -> None:
    assert Energy.of({"psys": 8.0}, calls=2, tokens_a_call=2).per_token_j == 2.0


@pytest.mark.parametrize("took_s", [0.0, LEAST_S * 0.9])
def test_a_stretch_too_short_for_the_counters_says_nothing(tmp_path: Path, took_s: float) -> None:
    counter(tmp_path, 0, "package-0", 100.0)
    used = meter(tmp_path, [0.0, took_s], [[], []])
    used.start()
    counter(tmp_path, 0, "package-0", 130.0)
    assert used.stop(4, 1) is None


def test_a_machine_that_lets_nothing_be_read_has_no_energy(tmp_path: Path) -> None:
    used = meter(tmp_path, [0.0, 10.0], [[], []])
    used.start()
    assert used.stop(4, 1) is None
    assert meter(tmp_path, [10.0], [[]]).stop(4, 1) is None  # never started


def test_this_machine_can_be_asked() -> None:
    used = Meter()
    used.start()
    assert used.stop(0, 1) is None
    used.close()


def test_the_meter_starts_after_the_warm_up() -> None:
    seen: list[str] = []

    def call() -> None:
        seen.append("call")

    plan = measure.SamplingPlan.of(10, slow_by_nature=False, warm_s=100.0)
    taken = measure.sample(call, lambda: None, plan, lambda: seen.append("warm"))
    assert seen.index("warm") == taken.warmed.calls
    assert len(seen) - seen.index("warm") - 1 == len(taken.latency.samples)


def test_processes_of_one_backend_are_summed() -> None:
    first = Energy.of({"package-0": 30.0}, calls=3, tokens_a_call=10)
    more = Energy.of({"package-0": 10.0}, calls=5, tokens_a_call=10)
    both = first.plus(more)
    assert (both.by_domain_j, both.calls) == ({"package-0": 40.0}, 8)
    assert both.per_token_j == pytest.approx(40.0 / 80)
    other = Energy.of({"gpu-0": 10.0}, calls=5, tokens_a_call=10)
    assert first.plus(other) == first and first.plus(None) == first


def test_rounds_join_their_energy_and_a_failure_takes_it_away() -> None:
    spent = Energy.of({"package-0": 30.0}, calls=3, tokens_a_call=10)
    row = result("torch-eager", 5.0).model_copy(update={"energy": spent})
    bare = result("torch-eager", 5.0)

    def joined(*rows: Any) -> Energy | None:
        numbered = [rounds.numbered(one, at, at) for at, one in enumerate(rows)]
        return rounds.joined(numbered[0], numbered[1]).energy

    assert joined(row, row) == spent.plus(spent)
    assert joined(row, bare) == spent and joined(bare, row) == spent
    assert joined(bare, bare) is None
    assert joined(row, row.model_copy(update={"status": "failed"})) is None


def test_report_md_tells_joules_a_token_and_whose() -> None:
    whole = record()
    spent = Energy.of({"package-0": 640.0}, calls=10, tokens_a_call=64)
    rows = [whole.results[0].model_copy(update={"energy": spent}), *whole.results[1:]]
    text = report.markdown(whole.model_copy(update={"results": rows}))
    row = next(line for line in text.splitlines() if line.startswith("| torch-eager"))
    assert row.endswith("| 1 |")
    assert "J/token |" in text and "the whole machine's energy" in text
    assert "J/token" not in report.markdown(whole)


class Library:
    """As NVIDIA's: counts how often it is open."""

    def __init__(self, refuses: bool = False) -> None:
        self.open = 0
        self._refuses = refuses

    def nvmlInit_v2(self) -> int:  # noqa: N802
        self.open += not self._refuses
        return int(self._refuses)

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.open -= 1
        return 0


def opener(library: object) -> Callable[[str], Any]:
    return lambda name: library


def test_the_drivers_library_is_kept_open_and_let_go() -> None:
    library = Library()
    close = nvml.keep_open(opener(library))
    assert library.open == 1
    close()
    assert library.open == 0


@pytest.mark.parametrize("library", [Library(refuses=True), object()])
def test_without_a_driver_nothing_is_kept_open(library: object) -> None:
    nvml.keep_open(opener(library))()
    if isinstance(library, Library):
        assert library.open == 0


def test_only_the_counters_are_read(tmp_path: Path) -> None:
    counter(tmp_path, 0, "package-0", 7.0)
    found = system.read_energy(tmp_path, list)
    assert found == SystemState(
        energy_j={"package-0": 7.0}, energy_range_j={"package-0": 1000.0}, gpus=()
    )
