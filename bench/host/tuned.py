"""A tuning run in words and as a table of its kernels."""

from __future__ import annotations

from bench.tuning import VALID, Tuning

HEADINGS = (
    *("kernel", "used", "calls", "MFLOP", "valid / trials"),
    *("hand-written ms", "tuned ms", "hand-written / tuned"),
)
_NONE = "-"


def lines(done: Tuning) -> list[str]:
    """What a tuning run did and what it is worth, in sentences."""
    said = [
        f"{done.trials} trials ({done.trials_before} of them in earlier runs), "
        f"{_ratio(done)}; {done.elapsed_s / 60:.1f} of {done.budget_s / 60:.1f} minutes; "
        f"stopped: {done.stopped}" + (f", {done.reason}" if done.reason else "")
    ]
    failed = [f"{n} {what}s" for what, n in done.counts.items() if n and what != VALID]
    if failed:
        said.append("not valid: " + ", ".join(failed))
    for death in done.deaths:
        said.append(f"the tuner died after {death.trials} trials, which are kept: {death.reason}")
    gain = _gain(done)
    if gain:
        said.append(gain)
    if done.cost_model != "xgboost":
        said.append("xgboost is not installed: candidates were chosen at random")
    return said


def table(done: Tuning) -> list[tuple[str, ...]]:
    """The heading, its rule as Markdown has it, and a row for each kernel, in their rank."""
    rows: list[tuple[str, ...]] = [HEADINGS, ("---", "---", *["---:"] * 6)]
    for task in done.tasks:
        rows.append(
            (
                task.name,
                task.used + (", given up" if task.given_up else ""),
                str(task.weight),
                f"{task.flops / 1e6:.3g}",
                f"{task.valid} / {task.trials}",
                _ms(task.hand_ms),
                _ms(task.tuned_ms),
                _over(task.hand_ms, task.tuned_ms),
            )
        )
    return rows


def _ratio(done: Tuning) -> str:
    if not done.trials:
        return "none valid"
    return f"{done.counts.get(VALID, 0) / done.trials:.0%} valid"


def _gain(done: Tuning) -> str | None:
    """What the faster of both is worth over the hand-written kernels, as measured in turns."""
    if done.hand_ms is None:
        return None
    mixed = sum(
        task.weight * (task.tuned_ms if task.used == "tuned" and task.tuned_ms else task.hand_ms)
        for task in done.tasks
        if task.hand_ms is not None
    )
    used = sum(task.used == "tuned" for task in done.tasks)
    return (
        f"sum over kernels of calls times time: hand-written {done.hand_ms:.3f} ms, with "
        f"{used} of {len(done.tasks)} kernels tuned {mixed:.3f} ms ({done.hand_ms / mixed:.2f}x); "
        "what it is worth end to end: invoke bench --backends tvm-optimized,tvm-tuned"
    )


def _over(hand_ms: float | None, tuned_ms: float | None) -> str:
    return f"{hand_ms / tuned_ms:.2f}x" if hand_ms and tuned_ms else _NONE


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"
