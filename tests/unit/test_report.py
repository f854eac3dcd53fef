"""The same rows for terminal and Markdown; a record's text never acts."""

from __future__ import annotations

import io

from rich.console import Console

from bench.host import report
from bench.record import ImageRef, Latency, Result, RunRecord, TvmLibrary
from tests.unit.samples import environment, record, result


def printed(width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report.table(record()))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_before_and_after_come_first_then_peers_by_speed() -> None:
    names = [row.cells[0] for row in report.rows(record())]
    assert names == ["tvm-none", "tvm-optimized", "torch-compile", "torch-eager", "tvm-default"]


def test_the_table_states_the_speed_up_and_fits_80_columns() -> None:
    text = printed()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    row = next(line for line in text.splitlines() if "tvm-optimized" in line)
    assert "200.00" in row and "50.00x" in row and "after" in row


def test_the_sentence_compares_before_after_and_the_best_peer() -> None:
    said = report.summary(record())
    assert said == (
        "before 10000.0 ms, after 200.0 ms: 50.0x faster; "
        "the best peer, torch-compile, takes 100.0 ms (0.50x of after)"
    )


def test_an_unsteady_row_says_so() -> None:
    whole = record()
    assert report.notes(whole) == []
    reasons = ["spread: wide; run it again", "steal: 5%; another machine"]
    jumpy = whole.results[0].model_copy(update={"unstable": reasons})
    (note,) = report.notes(whole.model_copy(update={"results": [jumpy]}))
    assert note == "torch-eager: spread: wide; run it again; steal: 5%; another machine"


def in_rounds(backend: str, times: list[float], place: int) -> Result:
    """A row of one sample a round."""
    count = len(times)
    latency = Latency.of(times, list(range(count)), [place + 2 * i for i in range(count)])
    return result(backend, 1.0).model_copy(update={"latency_ms": latency})


def test_rounds_give_an_interval_and_a_verdict() -> None:
    wave = [1.0, 1.2, 0.9, 1.1, 1.0, 0.95, 1.05, 1.0, 1.15, 0.9, 1.0]  # hits both alike
    rows = [
        in_rounds("torch-eager", [100 * w for w in wave], 0),
        in_rounds("tvm-optimized", [50 * w * (1 + i % 2 / 500) for i, w in enumerate(wave)], 1),
    ]
    middle, ratio = report.comparisons(record().model_copy(update={"results": rows}))
    assert middle.startswith("tvm-optimized: 50.00 ms, the median of 11 rounds (95% interval ")
    assert ratio.startswith("tvm-optimized takes 0.500 of torch-eager's time (99% interval 0.500")
    assert ratio.endswith(", 11 rounds): faster")
    few = [in_rounds(row.backend, [5.0, 5.0], 0) for row in rows]
    assert report.comparisons(record().model_copy(update={"results": few}))[1].endswith(
        "2 rounds): too few rounds"
    )
    assert report.comparisons(record()) == []


def test_without_a_before_there_is_no_sentence() -> None:
    whole = record()
    rest = [row for row in whole.results if row.backend != "tvm-none"]
    assert report.summary(whole.model_copy(update={"results": rest})) is None


def test_hostile_text_is_shown_inert() -> None:
    whole = record()
    hostile = "\x1b[31mred\x1b[0m [bold]x[/bold] <script>alert(1)</script> | cell"
    bad = whole.results[0].model_copy(
        update={"status": "failed", "reason": hostile, "latency_ms": None}
    )
    whole = whole.model_copy(update={"results": [bad], "reason": hostile, "status": "failed"})
    text = report.markdown(whole)
    assert "\x1b" not in text and "<script>" not in text.replace("\\<script", "")
    assert "\\|" in text
    assert all("\x1b" not in note for note in report.notes(whole))
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table(whole))


def test_markdown_rows_have_as_many_cells_as_the_heading() -> None:
    lines = [line for line in report.markdown(record()).splitlines() if line.startswith("| ")]
    table = [line for line in lines if line.startswith(("| backend", "| t"))][:6]
    assert len({line.count(" | ") for line in table}) == 1


HOSTILE = "\x1b]0;owned\x07\r\x9b31m\u202e"


def all_hostile() -> RunRecord:
    """A record with control characters wherever its format lets any text in."""
    whole = record()
    where = environment().model_copy(
        update={
            "cpu": HOSTILE,
            "gpu": HOSTILE,
            "driver": HOSTILE,
            "kernel": HOSTILE,
            "python": HOSTILE,
            "packages": {f"{HOSTILE} | <b>": HOSTILE},
            "git_commit": HOSTILE,
            "tvm_library": TvmLibrary(path=HOSTILE, build_id=HOSTILE),
        }
    )
    peer = whole.results[1].model_copy(update={"backend": f"torch{HOSTILE}*<b>"})
    rows = [row.model_copy(update={"reason": HOSTILE}) for row in [*whole.results[2:], peer]]
    return whole.model_copy(
        update={
            "run_id": HOSTILE,
            "reason": HOSTILE,
            "engine": HOSTILE,
            "environment": where,
            "image": ImageRef(id=HOSTILE, digest=HOSTILE, tag=HOSTILE, labels={}),
            "results": rows,
            "spec": whole.spec.model_copy(update={"device": "cuda", "model": HOSTILE}),
        }
    )


def test_no_control_character_of_a_record_reaches_a_terminal() -> None:
    whole = all_hostile()
    said = report.summary(whole)
    assert said is not None and "peer" not in said  # a name that is not ours is no peer's
    shown = [report.headline(whole), said, *report.notes(whole)]
    shown += [text for pair in report.environment(whole) for text in pair]
    assert len(shown) > 15
    for text in shown:
        assert text.isprintable(), ascii(text)
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table(whole))
    assert isinstance(console.file, io.StringIO)
    for text in (console.file.getvalue(), report.markdown(whole)):
        assert text.replace("\n", "").isprintable(), ascii(text)


def test_what_a_record_calls_a_backend_or_a_package_is_no_markdown() -> None:
    text = report.markdown(all_hostile())
    assert "<b>" in text.replace("\\<b\\>", "<b>")
    assert "<b>" not in text
    assert all(
        line.count(" | ") == 1
        for line in text.split("| environment | |")[1].splitlines()
        if line.startswith("| ")
    )


def test_plain_keeps_what_can_be_read() -> None:
    assert (
        report.plain("gpt2 \N{GREEK SMALL LETTER MU}s, 2x") == "gpt2 \N{GREEK SMALL LETTER MU}s, 2x"
    )
    assert report.plain("a\x1b[31mb\nc") == "a\ufffd[31mb\ufffdc"
