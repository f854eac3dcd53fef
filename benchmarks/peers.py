"""TVM against its peers, from several runs: ``python -m benchmarks.peers`` (``make benchmark``).

Each run is a sweep of peers.toml in a directory of its own, and is resumed where it was
interrupted. A table follows, as Markdown: one row a workload, rounds of all runs taken together;
and another of TVM against itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.catalog import AFTER, BEFORE, PEERS, WEIGHT_ONLY
from bench.errors import UsageFault
from bench.host import stats
from bench.host.stats import Ratio
from bench.record import Parity, RunRecord
from benchmarks import sweeping

SWEEP = Path(__file__).with_name("peers.toml")
# TVM against itself: the slower of each pair first.
OWN = ((BEFORE, AFTER), *((AFTER, name) for name in WEIGHT_ONLY))


@dataclass
class Workload:
    """What was measured of one workload: by backend, the medians of its rounds, ms, in order.

    ``compute``, ``read`` are the shares of the run's peak GEMM rate and read bandwidth that
    ``AFTER`` reached, one number a run; ``parity``, by backend, has one a run; ``compile_s`` is
    what compiling it took, as its artefact remembers it; ``unstable`` counts the runs with a row
    that is marked so.
    """

    name: str
    rounds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    compute: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    parity: dict[str, list[Parity]] = field(default_factory=lambda: defaultdict(list))
    compile_s: float | None = None
    runs: int = 0
    unstable: int = 0

    def add(self, record: RunRecord) -> None:
        """Another run of it. Rounds of one run stay side by side in every backend's list."""
        measured = [row for row in record.results if row.latency_ms is not None]
        self.runs += 1
        self.unstable += any(row.unstable for row in measured)
        for row in measured:
            assert row.latency_ms is not None
            latency = row.latency_ms
            self.rounds[row.backend] += stats.round_medians(latency.samples, latency.process)
            if row.parity is not None:
                self.parity[row.backend].append(row.parity)
            if row.backend == AFTER:
                self.compile_s = row.compile_s
                if row.roofline is not None:
                    self.compute.append(row.roofline.gemm_fraction)
                    self.read.append(row.roofline.read_fraction)

    def ms(self, backend: str) -> float | None:
        """The median of a backend's rounds, ms."""
        taken = self.rounds.get(backend)
        return statistics.median(taken) if taken else None

    def best_peer(self) -> str | None:
        """The peer with the least median."""
        timed = [(ms, peer) for peer in PEERS if (ms := self.ms(peer)) is not None]
        return min(timed)[1] if timed else None

    def speedup(self, slow: str, fast: str = AFTER) -> Ratio | None:
        """The time of ``slow`` over that of ``fast``: above 1, ``fast`` is faster.

        None where their rounds are no pairs: one of them failed in a run.
        """
        base, new = self.rounds.get(fast, []), self.rounds.get(slow, [])
        if not base or len(base) != len(new):
            return None
        return stats.paired_ratio(base, new)


def collect(records: Iterable[RunRecord]) -> list[Workload]:
    """The workloads of these runs, in the order in which they first come."""
    found: dict[str, Workload] = {}
    for record in records:
        spec = record.spec
        name = f"{spec.model} {spec.mode} {spec.seq_len}"
        if spec.batch_size != 1:
            name += f", batch {spec.batch_size}"
        found.setdefault(name, Workload(name)).add(record)
    return list(found.values())


def table(workloads: Sequence[Workload]) -> list[str]:
    """The Markdown table: medians in ms, the ratio with its 99% interval, shares of the peaks."""
    names = (*PEERS, AFTER)
    lines = [
        f"| workload | {' | '.join(names)} | best peer ÷ {AFTER} | | of GEMM peak | of read peak |"
        " compiled in s | rounds |",
        "|---" * (len(names) + 7) + "|",
    ]
    for one in workloads:
        cells = [one.name, *(_number(one.ms(name)) for name in names)]
        cells += [*_against(one), _share(one.compute), _share(one.read), _number(one.compile_s)]
        counted = f"{len(one.rounds.get(AFTER, []))} of {one.runs} runs"
        cells.append(counted + (f", {one.unstable} unstable" if one.unstable else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def own_table(workloads: Sequence[Workload]) -> list[str]:
    """The same of TVM against itself, for the workloads that have such a pair; [] for none."""
    lines = []
    for one in workloads:
        for slow, fast in OWN:
            base, new = one.ms(slow), one.ms(fast)
            if base is not None and new is not None:
                ratio = _ratio(one, slow, fast)
                # What is slow by nature runs in fewer rounds: there are no pairs, but a factor.
                told = (_number(base / new), "of medians") if ratio == _NONE else ratio
                cells = [one.name, f"{slow} → {fast}", _number(base), _number(new), *told]
                cells += [*_worst(one.parity[fast]), str(len(one.rounds[fast]))]
                lines.append(f"| {' | '.join(cells)} |")
    names = ("workload", "from → to", "ms", "ms", "ratio", "", "max error", "top-1", "rounds")
    head = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return lines and [*head, *lines]


def _worst(runs: Sequence[Parity]) -> tuple[str, str]:
    """The largest error of any run, as a share of the largest logit, and the least agreement."""
    errors = [one.max_rel_err for one in runs if one.max_rel_err is not None]
    if not errors:
        return "-", "-"
    return f"{max(errors):.1e}", f"{min(one.top1_agreement for one in runs):.0%}"


def _against(one: Workload) -> tuple[str, str]:
    peer = one.best_peer()
    return _ratio(one, peer, AFTER) if peer else _NONE


def _ratio(one: Workload, slow: str, fast: str) -> tuple[str, str]:
    ratio = one.speedup(slow, fast)
    if ratio is None:
        return _NONE
    bounds = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.bounded else ""
    # Of the first one's time over the second's: where the first is slower, the second is faster.
    told = {"slower": "faster", "faster": "slower"}.get(found := stats.verdict(ratio), found)
    return f"{ratio.estimate:.2f}{bounds}", f"{told} than {slow}" if told in _SHOWN else told


_SHOWN = ("faster", "slower")
_NONE = ("-", "-")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _share(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0%}" if values else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep as often as asked, then print the table."""
    parser = argparse.ArgumentParser("benchmarks.peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="sweeps, each in its own directory")
    parser.add_argument("--out", type=Path, default=sweeping.ROOT / "results" / "benchmark")
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="the workloads")
    parser.add_argument("--table", action="store_true", help="measure nothing: what --out has")
    asked = parser.parse_args(arguments)
    folders = [asked.out / str(number) for number in range(1, asked.runs + 1)]
    if not asked.table:
        for folder in folders:
            print(f"run {folder.name} of {asked.runs}: {folder}", file=sys.stderr)
            code = sweeping.sweep(asked.sweep, folder)
            if code:
                return code
    try:
        records = sweeping.records(folders, asked.out, "make benchmark")
    except UsageFault as fault:
        return sweeping.told(fault)
    workloads = collect(records)
    own = own_table(workloads)
    print("\n".join([*table(workloads), *([""] if own else []), *own]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
