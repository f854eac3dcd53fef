"""What a run's samples say, and what they do not: medians, intervals, ratios, verdicts.

The unit of everything is the median of one round, that is of one process: calls within a
process share its memory layout, its threads and its moment, so they are no independent evidence.
Nothing here draws random numbers; the same samples give the same answer.
docs/statistics.md has the reasons in plain words.
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench import trend
from bench.errors import UsageFault
from bench.system import SystemState

MIN_ROUNDS = 10  # fewer give no verdict
_COUNTED = 100  # of more rounds, the distribution of ranks is approximated
LEAST_EFFECT = 0.01  # a smaller one may be real, and is not worth a verdict
CONFIDENCE = 0.95  # of a median
RATIO_CONFIDENCE = 0.99  # of a ratio: one comparison in a hundred may mislead, before LEAST_EFFECT

Verdict = Literal["faster", "slower", "no difference shown", "too few rounds"]

# What marks a run as unstable; docs/statistics.md says where each comes from.
_SPREAD = 1.25  # p90 over p10 of the samples; quiet runs stay below 1.1
_ROUND_SPREAD = 0.10  # the middle half of the rounds' medians, as a share of their median
_DRIFT = 0.03  # from the first round to the last, as a share of the median
_DRIFT_Z = 2.576  # as rare without a drift as one in a hundred
_FEW = 6  # points that a drift needs: with fewer not even a straight line would be rare
_STRETCHES = 10  # that the samples of a single process are cut into, to see a drift
_STEAL = 0.02  # of the cores' time
_OTHERS = 0.10  # cores that others kept busy, for each core of the machine
_LOAD = 0.50  # runnable threads for each core before the run, where nothing tells the shares


@dataclass(frozen=True)
class Interval:
    """An estimate, with the bounds that the confidence asked for gives it."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """Time of the new over time of the base: above 1 is slower. ``rounds`` are the pairs used.

    Fewer pairs than the confidence needs (eight for 99%) bound nothing: then the bounds are 0 and
    infinity.
    """

    estimate: float
    low: float
    high: float
    rounds: int

    @property
    def bounded(self) -> bool:
        """Whether there were pairs enough for an interval."""
        return self.high < math.inf


def round_medians(samples: Sequence[float], process: Sequence[int] | None) -> list[float]:
    """The median of each round, rounds in the order of their numbers; ms in, ms out.

    ``process`` gives each sample's round; None, as old records have it, makes all one round.

    Raises:
        UsageFault: there is no sample, or ``process`` is of another length.
    """
    if not samples:
        raise UsageFault("there is no sample", hint="run it again: invoke bench")
    if process is None:
        return [statistics.median(samples)]
    rounds: dict[int, list[float]] = {}
    for sample, number in _parallel(samples, process):
        rounds.setdefault(number, []).append(sample)
    return [statistics.median(rounds[number]) for number in sorted(rounds)]


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of ``values`` with its bootstrap interval, by percentiles.

    Not drawn but counted: of all resamples of n values, the share whose middle lies at or below
    the i-th least value is a binomial tail. Of an even number of values both bounds are taken at
    the outer of the two middle ones, so that the interval is never too narrow for it. Below six
    values no interval of this kind reaches 95%; it is then the whole range.

    Raises:
        UsageFault: there is no value.
    """
    if not values:
        raise UsageFault("there is no round", hint="run it again: invoke bench")
    # Takes a moment to import, and most verbs do without it.
    from scipy import special  # type: ignore[import-untyped]

    ordered = sorted(values)
    n = len(ordered)
    lower_middle = (n + 1) // 2  # of the middle two the lower, counted from 1
    tail = (1 - confidence) / 2

    def at_or_below(i: int) -> float:
        # At least lower_middle of n draws are among the i least.
        return 1.0 - float(special.bdtr(lower_middle - 1, n, i / n))

    skipped = bisect_right(range(1, n + 1), tail, key=at_or_below)
    # The upper bound is the mirror image.
    return Interval(statistics.median(ordered), ordered[skipped], ordered[n - 1 - skipped])


def paired_ratio(
    base: Sequence[float], new: Sequence[float], confidence: float = RATIO_CONFIDENCE
) -> Ratio:
    """How much longer the new takes than the base, from the medians of their rounds.

    Round i of one is paired with round i of the other, which ran next to it, so that what slows
    both falls out. The interval is that of Wilcoxon's signed-rank test on the logarithms of the
    pairs' ratios, the estimate that of Hodges and Lehmann: the median of the means of all two
    of them. It asks no normal distribution of them, only that they lie alike on both sides, and
    one round in a burst of somebody else's load does not stretch it, as it does a t interval.
    Rounds that one side lacks are left out.

    Raises:
        UsageFault: there is no pair, or a median is not above zero.

    Source: J. L. Hodges, E. L. Lehmann, "Estimates of location based on rank tests", Annals of
    Mathematical Statistics 34 (1963).
    """
    pairs = list(zip(base, new, strict=False))
    if not pairs:
        raise UsageFault("there is no round that both sides have", hint="run them again")
    if min(map(min, pairs)) <= 0:
        raise UsageFault(
            "a round's median is 0 ms, of which there is no ratio",
            hint="a call that takes no time was not measured: run it again",
        )
    logs = [math.log(after / before) for before, after in pairs]
    means = sorted(
        (one + other) / 2 for one, other in itertools.combinations_with_replacement(logs, 2)
    )
    middle, n = math.exp(statistics.median(means)), len(logs)
    skipped = _outside(n, (1 - confidence) / 2)
    if skipped is None:
        return Ratio(middle, 0.0, math.inf, n)
    return Ratio(middle, math.exp(means[skipped]), math.exp(means[-1 - skipped]), n)


def _outside(n: int, tail: float) -> int | None:
    """The greatest i for which the signed-rank sum of n values is at most i with a probability of
    at most ``tail``: so many of the sorted means lie outside of the interval, on each side.

    None where there is none.
    """
    if n > _COUNTED:  # it is as good as normal by then
        from scipy import special  # takes a moment to import, and most verbs do without it

        mean, variance = n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24
        return math.floor(mean + float(special.ndtri(tail)) * math.sqrt(variance) - 0.5)
    ways = [1]  # how many sets of the ranks 1 … n have each sum
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    at_most = itertools.accumulate(ways)
    over = next(i for i, sets in enumerate(at_most) if sets > tail * 2**n)
    return over - 1 if over else None


def verdict(ratio: Ratio, least_effect: float = LEAST_EFFECT) -> Verdict:
    """What ``ratio`` allows to be said of the new.

    A difference is told where at least ten rounds give an interval that leaves out 1, and an
    estimate that is over ``least_effect`` away from it (0.01: over 1.01, or under 1/1.01).
    Otherwise none was shown, which does not mean that there is none.
    """
    if ratio.rounds < MIN_ROUNDS:
        return "too few rounds"
    if ratio.low > 1 and ratio.estimate > 1 + least_effect:
        return "slower"
    if ratio.high < 1 and ratio.estimate < 1 / (1 + least_effect):
        return "faster"
    return "no difference shown"


def instability(
    samples: Sequence[float],
    process: Sequence[int] | None,
    order: Sequence[int] | None,
    before: SystemState | None,
    after: SystemState | None,
) -> list[str]:
    """Why one backend's figures are not to be quoted, each reason with what to do; [] if steady.

    ``samples`` (ms) with ``process`` and ``order`` are those of a ``Latency``; ``before`` and
    ``after`` are the machine around the run, and may be missing.

    Raises:
        UsageFault: there is no sample, or the three are not of one length.
    """
    advice = _governor(before)
    found = [_spread(samples, process, advice), _drift(samples, process, order, advice)]
    if before is not None:
        found += [_others(before, after), *_gpus(before, after)]
    if before is not None and after is not None:
        found += [_steal(before, after), _throttled(before, after)]
    return [reason for reason in found if reason]


def _spread(samples: Sequence[float], process: Sequence[int] | None, advice: str) -> str | None:
    medians = round_medians(samples, process)
    if len(medians) >= MIN_ROUNDS:
        low, _, high = statistics.quantiles(medians, n=4, method="inclusive")
        share = (high - low) / statistics.median(medians) if low > 0 else math.inf
        if share > _ROUND_SPREAD:
            return (
                f"spread: the middle half of {len(medians)} rounds lies {share:.0%} apart; stop "
                f"what else runs, or take more rounds{advice}"
            )
    if len(samples) >= MIN_ROUNDS:
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        if tenths[-1] > _SPREAD * tenths[0]:
            return (
                f"spread: p10 is {tenths[0]:.4g} ms but p90 {tenths[-1]:.4g} ms; stop what else "
                f"runs, pin cores, and run it again{advice}"
            )
    return None


def _drift(
    samples: Sequence[float],
    process: Sequence[int] | None,
    order: Sequence[int] | None,
    advice: str,
) -> str | None:
    # By place in the whole schedule where it is known: that is the order of time.
    points = round_medians(samples, order if order is not None else process)
    of = "rounds"
    if len(points) == 1 and len(samples) >= 2 * _STRETCHES:
        n = len(samples)
        cuts = [n * i // _STRETCHES for i in range(_STRETCHES + 1)]
        points = [statistics.median(samples[a:b]) for a, b in itertools.pairwise(cuts)]
        of = "stretches of the only round"
    if len(points) < _FEW:
        return None
    seen = trend.of(points)
    if abs(seen.z) < _DRIFT_Z or abs(seen.change) < _DRIFT:
        return None
    way = "slower" if seen.change > 0 else "faster"
    cause = "a longer warm-up" if seen.change < 0 else "time to cool before it"
    return (
        f"drift: {abs(seen.change):.0%} {way} from the first to the last of {len(points)} {of}; "
        f"give it {cause}, and run it again{advice}"
    )


def _steal(before: SystemState, after: SystemState) -> str | None:
    share = _share(before.steal_s, after.steal_s, before, after)
    if share is None or share < _STEAL:
        return None
    return (
        f"steal: the hypervisor gave {share:.0%} of the cores' time to others; use a machine that "
        "is not shared, or run it again at a quieter hour"
    )


def _others(before: SystemState, after: SystemState | None) -> str | None:
    if after is not None:
        busy = _share(before.busy_s, after.busy_s, before, after)
        own = _share(before.own_s, after.own_s, before, after)
        if busy is not None and own is not None:
            others = busy - own
            if others < _OTHERS:
                return None
            return (
                f"other load: other processes took {others:.0%} of the cores' time; stop them, or "
                "run it again when they are done"
            )
    if before.load_1m is None or not before.cores or before.load_1m < _LOAD * before.cores:
        return None
    return (
        f"other load: the load was {before.load_1m:.1f} on {before.cores} cores before it began; "
        "wait until the machine is idle, and run it again"
    )


def _throttled(before: SystemState, after: SystemState) -> str | None:
    if before.throttle_events is None or after.throttle_events is None:
        return None
    events = after.throttle_events - before.throttle_events
    if events <= 0:
        return None
    heat = f" at {after.temperature_c:.0f} °C" if after.temperature_c is not None else ""
    return (
        f"throttling: the processor slowed down {events} times to stay cool{heat}; let it cool, "
        "see to its cooling, or turn turbo off"
    )


def _gpus(before: SystemState, after: SystemState | None) -> list[str]:
    found = []
    for index, gpu in enumerate(before.gpus):
        if gpu.busy is not None and gpu.busy >= _OTHERS:
            found.append(
                f"other load: GPU {index} was {gpu.busy:.0%} busy before it began; stop what runs "
                "on it, or name another GPU"
            )
    for index, gpu in enumerate(after.gpus if after else ()):
        if gpu.throttled:
            found.append(
                f"throttling: GPU {index} was held down by {', '.join(gpu.throttled)}; let it "
                "cool, or lock its clocks lower (nvidia-smi --lock-gpu-clocks)"
            )
    return found


def _share(
    start: float | None, end: float | None, before: SystemState, after: SystemState
) -> float | None:
    """What a counter of CPU seconds gained, as a share of all cores' time between the states."""
    if start is None or end is None or before.uptime_s is None or after.uptime_s is None:
        return None
    capacity = (after.uptime_s - before.uptime_s) * (after.cores or 0)
    return (end - start) / capacity if capacity > 0 else None


def _governor(state: SystemState | None) -> str:
    slow = [name for name in (state.governors or ()) if name != "performance"] if state else []
    if not slow:
        return ""
    return (
        f"; the frequency governor is {', '.join(slow)}: cpupower frequency-set -g performance "
        "holds the clock"
    )


def _parallel(samples: Sequence[float], numbers: Sequence[int]) -> list[tuple[float, int]]:
    if len(samples) != len(numbers):
        raise UsageFault(
            f"{len(samples)} samples, but {len(numbers)} numbers beside them",
            hint="the record is damaged: run it again",
        )
    return list(zip(samples, numbers, strict=True))
