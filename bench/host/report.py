"""Records to what people read: the terminal's table and report.md, from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table

from bench import cores
from bench.account import Generation
from bench.catalog import AFTER, BEFORE, PEERS, RUNGS, TUNED, WEIGHT_ONLY
from bench.host import breakeven, ladder, rounding, stats, timing, tuned
from bench.host.timing import device_middle, middle
from bench.record import Parity, Result, RunRecord
from bench.roofline import Peak, Roofline
from bench.training import Training

_TTFT, _MAX_ERROR = "TTFT ms", "max error"
# Every column in report.md; a terminal of 80 characters has room for those marked.
_COLUMNS = (
    ("backend", True),
    ("role", True),
    (_TTFT, True),  # where there is one
    ("median ms", True),
    ("p10", False),
    ("p90", False),
    ("samples", False),
    ("tokens/s", True),
    ("speed-up", True),
    ("compile s", True),
    ("peak MiB", False),
    (_MAX_ERROR, True),
    ("top-1", False),
    # From here on a column is left out of report.md where no row has a figure for it.
    ("device ms", False),
    ("GFLOP/s", False),
    ("of GEMM peak", False),
    ("GB/s", False),
    ("of read peak", False),
    ("J/token", False),
)
OPTIONAL = 6
ELSEWHERE = 5  # the last so many have tables of their own on the page
HEADINGS = [name for name, _ in _COLUMNS]
LEFT = 2  # so many columns are text
_ROLE = {BEFORE: "before", AFTER: "after"}
NO_VALUE = "-"


@dataclass(frozen=True)
class Row:
    """One backend's cells, as text, and what to mark."""

    cells: tuple[str, ...]
    status: str
    note: str | None


def rows(record: RunRecord) -> list[Row]:
    """The table's rows: before, after, then each peer by its latency; failed ones last."""
    base = _median(next((r for r in record.results if r.backend == BEFORE), None))
    return [_row(result, base) for result in sorted(record.results, key=order)]


def summary(record: RunRecord) -> str | None:
    """The one sentence that the run is about; None where before or after is missing."""
    by_name = {result.backend: result for result in record.results}
    before, after = _median(by_name.get(BEFORE)), _median(by_name.get(AFTER))
    if before is None or after is None:
        return None
    text = f"before {before:.1f} ms, after {after:.1f} ms: {before / after:.1f}x faster"
    peers = [
        (median, result.backend)
        for result in record.results
        if result.backend in PEERS and (median := _median(result)) is not None
    ]
    if peers:
        best, name = min(peers)
        text += (
            f"; the best peer, {plain(name)}, takes {best:.1f} ms ({best / after:.2f}x of after)"
        )
    return text


def comparisons(record: RunRecord) -> list[str]:
    """After against every other backend, by paired rounds; [] for a run of one round."""
    by_name = {r.backend: r.latency_ms for r in record.results if r.latency_ms}
    after = by_name.pop(AFTER, None)
    if after is None or after.process is None:
        return []
    mine = stats.round_medians(after.samples, after.process)
    middle = stats.median_interval(mine)
    lines = [
        f"{AFTER}: {middle.estimate:.2f} ms, the median of {len(mine)} rounds "
        f"(95% interval {middle.low:.2f} to {middle.high:.2f})"
    ]
    for name, latency in by_name.items():
        theirs = stats.round_medians(latency.samples, latency.process)
        if min(*theirs, *mine) <= 0:
            continue  # a record from elsewhere: a call of no time has no ratio
        ratio = stats.paired_ratio(theirs, mine)
        lines.append(
            f"{AFTER} takes {ratio.estimate:.3f} of {name}'s time ({_interval(ratio)}, "
            f"{ratio.rounds} rounds): {stats.verdict(ratio)}"
        )
    return [plain(line) for line in lines]


def _interval(ratio: stats.Ratio) -> str:
    if ratio.bounded:
        return f"99% interval {ratio.low:.3f} to {ratio.high:.3f}"
    return "no 99% interval"


def headline(record: RunRecord) -> str:
    """What was measured and on what, on one line."""
    spec = record.spec
    where = record.environment
    machine = f"{where.cores} cores, {where.cpu}" if where else "environment unknown"
    place = f"{record.engine}, {record.image.tag}" if record.image else record.engine
    device = f"{where.gpu}" if where and where.gpu and spec.device == "cuda" else spec.device
    return plain(
        f"{spec.named} {spec.mode}, batch {spec.batch_size}, {spec.seq_len} tokens, {spec.dtype}, "
        f"{device} ({machine}; {place})"
    )


def table(record: RunRecord) -> Table:
    """The record as a table for the terminal. Text from the record is shown inert."""
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    # 80 characters hold one of the two.
    left_out = _MAX_ERROR if any(result.ttft_ms for result in record.results) else _TTFT
    on_terminal = [shown and name != left_out for name, shown in _COLUMNS]
    for index, (name, shown) in enumerate(zip(HEADINGS, on_terminal, strict=True)):
        if shown:
            built.add_column(name, justify="left" if index < LEFT else "right", no_wrap=True)
    for row in rows(record):
        style = {"failed": "red", "skipped": "dim"}.get(row.status)
        cells = zip(row.cells, on_terminal, strict=True)
        built.add_row(*(escape(plain(cell)) for cell, shown in cells if shown), style=style)
    return built


def account(record: RunRecord) -> list[str]:
    """What a run did that is no table's row: training, generating, evaluating, in sentences."""
    lines = []
    if record.training:
        lines += _of_training(record.training)
    if record.generation:
        lines.append(_of_generation(record.generation))
    if record.tuning:
        lines += tuned.lines(record.tuning)
    for found in record.evaluations:
        lines.append(
            f"{found.backend}: perplexity {found.perplexity:.4f} (loss {found.loss:.6f} nats a "
            f"token) over {found.tokens} tokens of the {found.split} split"
        )
    return [plain(line) for line in lines]


def _of_training(done: Training) -> list[str]:
    lines = [
        f"{done.parameters:,} parameters on {done.train_tokens:,} tokens of {done.text}: "
        f"{done.steps_done} steps in {done.elapsed_s:.0f} s"
        + (f", {done.stopped}" if done.stopped != "finished" else "")
    ]
    if done.best_val_loss is not None and done.last_val_loss is not None:
        lines.append(
            f"validation loss {done.last_val_loss:.4f} nats a token, at best "
            f"{done.best_val_loss:.4f} (step {done.best_step})"
        )
    if done.full_val_loss is not None:
        lines.append(
            f"over the whole validation split ({done.full_val_tokens:,} tokens): "
            f"{done.full_val_loss:.4f}"
        )
    return lines


def _of_generation(done: Generation) -> str:
    text = f"{done.backend}: {done.tokens} tokens, first after {done.ttft_ms:.1f} ms"
    if done.token_ms:
        text += f", then {done.token_ms:.2f} ms each ({1e3 / done.token_ms:.0f} a second)"
    if done.recomputed:
        text += f"; {done.recomputed} of them past the block, where each takes a whole block"
    return text


def sentences(record: RunRecord) -> list[str]:
    """Whatever is said of a run below its table, in order."""
    compared = [*ladder.lines(record), *comparisons(record), *breakeven.lines(record)]
    rounded = [plain(line) for line in rounding.lines(sorted(record.results, key=order))]
    measured = [*compared, *rounded, *on_device(record), *rooflines(record)]
    return [*notes(record), *measured, *account(record)]


def on_device(record: RunRecord) -> list[str]:
    """How much of each backend's time is the device's by its own clock, or why that is not known.

    [] for a run on a CPU, where there is no other clock than the host's.
    """
    told = (timing.on_device(result) for result in sorted(record.results, key=order))
    return [plain(line) for line in told if line]


def rooflines(record: RunRecord) -> list[str]:
    """How near *after* comes to what limits it; without it, each backend. [] without a peak."""
    peak = record.environment.peak if record.environment else None
    found = {row.backend: row.roofline for row in record.results if row.roofline}
    if peak is None:
        return []
    ours = {name: one for name, one in found.items() if name == AFTER or name in WEIGHT_ONLY}
    chosen = ours if AFTER in found else found
    return [plain(_of_roofline(name, one, peak)) for name, one in chosen.items()]


def _of_roofline(name: str, found: Roofline, peak: Peak) -> str:
    if found.bound == "compute":
        rate, share = f"{found.gflops:.3g} GFLOP/s", f"{found.gemm_fraction:.0%} of the GEMM peak"
        best = peak.gemm_gflops
    else:
        rate, share = f"{found.gb_s:.3g} GB/s", f"{found.read_fraction:.0%} of the read peak"
        best = peak.read_gb_s
    return f"{name}: {rate}, {share} ({best:.3g}); {found.bound} bound"


def notes(record: RunRecord) -> list[str]:
    """Why rows have no figure, each with its backend's name."""
    return [plain(row.note) for row in rows(record) if row.note]


def markdown(record: RunRecord) -> str:
    """The record as report.md."""
    lines = [f"# {_inert(record.run_id)}", "", _inert(headline(record)), ""]
    lines += [
        f"Status: **{record.status}**" + (f" - {_inert(record.reason)}" if record.reason else "")
    ]
    said = summary(record)
    lines += ["", f"**{_inert(said)}**"] if said else []
    if record.results:
        lines += ["", *_table(rows(record))]
    lines += ["", *(f"- {_inert(note)}" for note in sentences(record))]
    if record.tuning:
        lines += ["", *(_markdown_row(cells) for cells in tuned.table(record.tuning))]
    lines += [
        "",
        "Latency is one call of the whole batch, in decoding one token of each sequence, with "
        "the time to the first token (TTFT) beside it; tokens/s counts every position, in "
        "decoding the new ones; speed-up is "
        f"against {BEFORE}; * means compiled in an earlier run. Max error is "
        "the largest absolute error of a logit against the float64 reference; top-1 the share "
        "of positions with the same most likely token. Raw samples are in record.json.",
    ]
    if any(result.latency_ms and result.latency_ms.device_ms for result in record.results):
        lines += [
            "",
            "Device ms is the same calls by the device's own clock; all else is by the host's, "
            "which a user waits by (docs/statistics.md).",
        ]
    if any(result.roofline for result in record.results):
        lines += [
            "",
            "GFLOP/s and GB/s are what a call needs at least, counted from the model's geometry, "
            "over its median time; the peaks are measured in this run (docs/roofline.md).",
        ]
    if any(result.energy for result in record.results):
        lines += ["", "J/token is the whole machine's energy while the calls were timed."]
    if record.environment:
        lines += ["", "| environment | |", "|---|---|"]
        lines += [f"| {_inert(key)} | {_inert(value)} |" for key, value in environment(record)]
    return "\n".join(lines) + "\n"


def _table(found: list[Row]) -> list[str]:
    """The rows as Markdown."""
    every = len(_COLUMNS) - OPTIONAL
    shown = [
        index
        for index in range(len(_COLUMNS))
        if index < every or any(row.cells[index] != NO_VALUE for row in found)
    ]
    lines = [[HEADINGS[index] for index in shown]]
    lines += [["---" if index < LEFT else "---:" for index in shown]]
    lines += [[_inert(row.cells[index]) for index in shown] for row in found]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inert(cell) for cell in cells) + " |"


def environment(record: RunRecord) -> list[tuple[str, str]]:
    """What the job ran on, as pairs for people to read."""
    where = record.environment
    if where is None:
        return []
    pairs = [
        ("cpu", f"{where.cpu}, {where.cores} cores, {where.memory_mib} MiB"),
        ("gpu", f"{where.gpu}, driver {where.driver}" if where.gpu else "none"),
        *(
            [
                ("GEMM peak", f"{where.peak.gemm_gflops:.1f} GFLOP/s ({where.peak.gemm})"),
                ("read peak", f"{where.peak.read_gb_s:.1f} GB/s ({where.peak.read})"),
            ]
            if where.peak
            else []
        ),
        *([("pinned to", f"cores {cores.listed(record.spec.pin)}")] if record.spec.pin else []),
        ("kernel", where.kernel),
        ("python", where.python),
        *sorted(where.packages.items()),
        ("git", f"{where.git_commit}{' (dirty)' if where.git_dirty else ''}"),
    ]
    if where.tvm_library:
        pairs.append(("tvm library", where.tvm_library.build_id))
    if record.image:
        pairs.append(("image", f"{record.image.tag} {record.image.digest or record.image.id}"))
    return [(plain(key), plain(value)) for key, value in pairs]


def plain(text: str) -> str:
    """Without control characters: a record may come from anywhere, a terminal obeys them."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _row(result: Result, base: float | None) -> Row:
    latency = result.latency_ms
    first = f"{result.ttft_ms.median:.2f}" if result.ttft_ms else NO_VALUE
    figures = (first, result.status, *[NO_VALUE] * 3)
    if latency:
        times = (middle(latency), latency.p10, latency.p90)
        figures = (first, *(f"{ms:.2f}" for ms in times), str(len(latency.samples)))
    cached = "*" if result.compile_cached else ""
    cells = (
        result.backend,
        _ROLE.get(result.backend, "peer" if result.backend in PEERS else rounding.role(result)),
        *figures,
        _number(result.tokens_per_s, ".0f"),
        f"{base / middle(latency):.2f}x" if latency and base else NO_VALUE,
        _number(result.compile_s, ".1f") + cached,
        _number(result.peak_memory_mib, ".0f"),
        *_parity_cells(result.parity),
        _number(device_middle(latency) if latency else None, ".3f"),
        *_roofline_cells(result.roofline),
        _number(result.energy.per_token_j if result.energy else None, ".3g"),
    )
    reasons = [result.reason] if result.reason else result.unstable
    note = f"{result.backend}: {'; '.join(reasons)}" if reasons else None
    return Row(cells, result.status, note)


def _parity_cells(parity: Parity | None) -> tuple[str, str]:
    if parity is None:
        return NO_VALUE, NO_VALUE
    error = "not finite" if parity.max_abs_err is None else f"{parity.max_abs_err:.1e}"
    return error, f"{parity.top1_agreement:.1%}"


def _roofline_cells(found: Roofline | None) -> tuple[str, str, str, str]:
    if found is None:
        return NO_VALUE, NO_VALUE, NO_VALUE, NO_VALUE
    return (
        f"{found.gflops:.1f}",
        f"{found.gemm_fraction:.0%}",
        f"{found.gb_s:.1f}",
        f"{found.read_fraction:.0%}",
    )


def order(result: Result) -> tuple[int, float]:
    """What rows are sorted by: before, after and what is like it, peers by latency, failed ones."""
    if result.backend in RUNGS:  # in their order, between before and after
        return 0, float("inf")
    median = _median(result)
    # After, and one thing more or other weights: behind it, whatever they take.
    if result.backend in TUNED or (result.backend in WEIGHT_ONLY and median is not None):
        return 1, float("inf")
    rank = {BEFORE: 0, AFTER: 1}.get(result.backend, 2)
    return (rank, median) if median is not None else (3, 0.0)


def _median(result: Result | None) -> float | None:
    return middle(result.latency_ms) if result and result.latency_ms else None


def _number(value: float | None, form: str) -> str:
    return NO_VALUE if value is None else format(value, form)


def _inert(text: str) -> str:
    """As Markdown text: no table cell broken, no markup or HTML."""
    shown = plain(text)
    for character in "\\`*_<>|[]":
        shown = shown.replace(character, f"\\{character}")
    return shown
