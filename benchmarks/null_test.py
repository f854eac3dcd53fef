"""Does the method cry wolf, and does it see one? ``python -m benchmarks.null_test``.

The same work is compared with itself many times over, and with itself plus a planted share of
more work (no sleep: the processor is busy all the way). Each comparison is made as a run makes
it: fresh processes, interleaved, each warmed up until stable, a round's unit its median, verdict
by paired ratios. Of 200 comparisons of the same with the same at most 6 may find a difference;
10% more is to be found 20 times of 20, and 3% more often than not.

The work is pure Python, so that a process takes a fifth of a second and not ten: what is tested
is the method on this machine's noise, not a backend.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import cores
from bench.errors import UsageFault
from bench.host import stats
from bench.job import system

ROOT = Path(__file__).resolve().parent.parent
UNITS = 20_000  # of work in a call: about 2 ms
PLANTED = (0.10, 0.03)
MOST_FALSE = 0.03  # of the null comparisons: 6 of 200

# What a fresh process does: warm up, then one line of milliseconds.
_ROUND = """
import sys, time
from bench.job.warmup import WarmupPlan, warm_up

units, samples = int(sys.argv[1]), int(sys.argv[2])
words = [f"word{i * 7919 % 1009}" for i in range(1009)]
table = {word: i * 0.5 for i, word in enumerate(words)}

def work():
    total, at = 0.0, 0
    for _ in range(units):
        at = (at + 17) % 1009
        total += table[words[at]] * 1.0001
    return total

warm = warm_up(work, WarmupPlan(least_s=0.02, most_s=1.0, most=200, window=8))
taken = []
for _ in range(samples):
    begin = time.perf_counter_ns()
    work()
    taken.append((time.perf_counter_ns() - begin) / 1e6)
print(warm.calls, int(warm.stable), *taken)
"""


@dataclass(frozen=True)
class Comparison:
    """One comparison: ``planted`` is the share of more work on the new side, 0 for none.

    ``base`` and ``new`` are the medians of the rounds, ms; ``unstable`` tells of either side.
    """

    planted: float
    estimate: float
    low: float
    high: float
    verdict: str
    unstable: bool
    base: list[float]
    new: list[float]

    @property
    def significant(self) -> bool:
        return self.verdict in ("faster", "slower")


def one_round(units: int, samples: int) -> list[float]:
    """Milliseconds of each call in a fresh process."""
    command = [sys.executable, "-c", _ROUND, str(units), str(samples)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()[2:]]


def compare(planted: float, rounds: int, samples: int, units: int = UNITS) -> Comparison:
    """Base, new, base, new … and what the statistics make of it."""
    sides = (units, round(units * (1 + planted)))
    taken: tuple[list[float], list[float]] = ([], [])
    process: tuple[list[int], list[int]] = ([], [])
    order: tuple[list[int], list[int]] = ([], [])
    for number in range(rounds):
        for side in (0, 1):
            found = one_round(sides[side], samples)
            taken[side].extend(found)
            process[side].extend([number] * len(found))
            order[side].extend([2 * number + side] * len(found))
    base, new = (stats.round_medians(taken[side], process[side]) for side in (0, 1))
    ratio = stats.paired_ratio(base, new)
    unstable = any(
        stats.instability(taken[side], process[side], order[side], None, None) for side in (0, 1)
    )
    return Comparison(
        planted,
        ratio.estimate,
        ratio.low,
        ratio.high,
        stats.verdict(ratio),
        unstable,
        base,
        new,
    )


def cut(whole: Comparison, rounds: int) -> list[Comparison]:
    """The comparison as several of ``rounds`` each, one after another; a rest is left out."""
    parts = []
    for start in range(0, len(whole.base) - rounds + 1, rounds):
        base, new = (side[start : start + rounds] for side in (whole.base, whole.new))
        ratio = stats.paired_ratio(base, new)
        parts.append(
            replace(
                whole,
                estimate=ratio.estimate,
                low=ratio.low,
                high=ratio.high,
                verdict=stats.verdict(ratio),
                base=base,
                new=new,
            )
        )
    return parts


def schedule(comparisons: int, planted: int) -> Iterator[float]:
    """What to plant, one by one: the planted ones spread evenly among the null ones."""
    done = 0
    for number in range(1, comparisons + 1):
        yield 0.0
        while done < planted and done * comparisons < number * planted:
            yield from PLANTED
            done += 1
    for _ in range(done, planted):
        yield from PLANTED


def summary(found: list[Comparison]) -> list[str]:
    """The figures, a line each."""
    lines = []
    for planted in (0.0, *PLANTED):
        of = [one for one in found if one.planted == planted]
        if not of:
            continue
        reach = statistics.median(
            (one.high / one.low) ** 0.5 - 1 if one.low else math.inf for one in of
        )
        estimates = sorted(one.estimate for one in of)
        verdicts = {name: sum(one.verdict == name for one in of) for name in ("slower", "faster")}
        lines.append(
            f"planted {planted:.0%}: {len(of)} comparisons, {verdicts['slower']} slower, "
            f"{verdicts['faster']} faster; estimate median {statistics.median(estimates):.4f}, "
            f"{estimates[0]:.4f} to {estimates[-1]:.4f}; half-width median {reach:.2%}; "
            f"{sum(one.unstable for one in of)} marked unstable"
        )
    return lines


def passed(found: list[Comparison]) -> bool:
    """Whether the method kept its promises."""
    null = [one for one in found if one.planted == 0]
    if sum(one.significant for one in null) > MOST_FALSE * len(null):
        return False
    for planted, share in zip(PLANTED, (1.0, 0.5), strict=True):
        of = [one for one in found if one.planted == planted]
        right = sum(one.verdict == "slower" for one in of)
        if of and (right < share * len(of) or (share < 1 and right * 2 <= len(of))):
            return False
    return True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.null_test", description=__doc__)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--planted", type=int, default=20, help="comparisons of each planted size")
    parser.add_argument("--rounds", type=int, default=10, help="processes a side")
    parser.add_argument("--samples", type=int, default=15, help="calls a process")
    parser.add_argument("--units", type=int, default=UNITS, help="work a call")
    parser.add_argument("--out", type=Path, help="a file to add to, a JSON line each")
    parser.add_argument("--again", type=Path, help="measure nothing: what --out kept, counted")
    parser.add_argument("--pin", metavar="CORES", help="run on these alone, as 0-3,6")
    chosen = parser.parse_args(argv)
    if chosen.again:
        kept = [Comparison(**json.loads(line)) for line in chosen.again.read_text().splitlines()]
        found = [part for whole in kept for part in cut(whole, chosen.rounds)]
        print(*summary(found), sep="\n")
        return 0 if passed(found) else 1
    if chosen.pin:
        try:
            cores.hold(cores.parse(chosen.pin))
        except UsageFault as fault:
            parser.error(f"{fault.message} ({fault.hint})")
    before, started = system.read(), time.monotonic()
    found = []
    for planted in schedule(chosen.comparisons, chosen.planted):
        found.append(compare(planted, chosen.rounds, chosen.samples, chosen.units))
        one = found[-1]
        if chosen.out:
            with chosen.out.open("a") as kept:
                kept.write(json.dumps(asdict(one)) + "\n")
        print(
            f"{len(found)}: planted {planted:.0%}, {one.estimate:.4f} [{one.low:.4f}, "
            f"{one.high:.4f}], {one.verdict}",
            flush=True,
        )
    after = system.read()
    print(f"\n{chosen.rounds} rounds of {chosen.samples} calls; {time.monotonic() - started:.0f} s")
    print(*summary(found), sep="\n")
    # Whatever spread the comparisons have, the whole machine has its say here.
    for reason in stats.instability([1.0], None, None, before, after):
        print(reason)
    print(
        f"load {before.load_1m} before, {after.load_1m} after, on {after.cores} cores, "
        f"of which {after.allowed}"
    )
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
