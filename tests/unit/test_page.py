"""The report's file: the same for the same record, whole, and asking for no other."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.errors import UsageFault
from bench.host import runs
from bench.host.history.query import Filters
from bench.host.page import facts, overview, palette, render, section, spread, verbs
from bench.host.page.chart import number
from bench.host.page.lengths import Lengths
from bench.record import JobSpec, Latency, RunRecord
from tests.unit import pages, samples


def page_of(record: RunRecord, tmp_path: Path) -> str:
    return render.one(section.of(record, tmp_path, "r1"))


def bare(record: RunRecord) -> RunRecord:
    """Without what takes its time to draw."""
    return record.model_copy(update={"results": []})


def write(
    named: str,
    out: Path,
    *,
    filters: Filters | None = None,
    limit: int | None = None,
    to: Path | None = None,
    figures: Path | None = None,
    show: bool = False,
) -> None:
    given = filters or Filters()
    verbs.write(named, out, given, limit=limit, to=to, figures=figures, show=show)


def test_same_record_gives_the_same_bytes_of_a_sensible_size(tmp_path: Path) -> None:
    text = page_of(pages.whole(), tmp_path)
    assert text == page_of(pages.whole(), tmp_path)
    assert 100_000 < len(text.encode()) < 3 * 2**20


def test_page_names_no_other_file_and_its_rule_allows_its_own_script_alone(tmp_path: Path) -> None:
    text = page_of(pages.whole(), tmp_path)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:,)[^"']*""", text)
    assert not re.findall(r"@import|url\((?!#)", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text or f"'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_no_two_elements_have_one_id(tmp_path: Path) -> None:
    pages.lengths(tmp_path, (32, 64))
    found = [(runs.read_record(path / runs.RECORD), path) for path in runs.listed(tmp_path)][:2]
    text = render.many(overview.of(found, []))
    ids = re.findall(r'\bid="([^"]*)"', text)
    # matplotlib defines a marker anew in every group that has it, with the same content.
    ids = [one for one in ids if not re.search(r"-m[0-9a-f]{10}$", one)]
    assert len(ids) > 100
    assert sorted(ids) == sorted(set(ids))


def test_old_record_has_no_empty_chart_but_says_what_to_run(tmp_path: Path) -> None:
    made = section.of(samples.record(), tmp_path, "r1")
    assert [chart.name for chart in made.charts] == ["latency", "calls", "cost"]
    assert [what for what, _ in made.missing] == [
        "Roofline",
        "Where the time goes",
        "Intervals over rounds",
        "Latency against length",
    ]
    assert all("invoke" in how for _, how in made.missing)
    assert "<figure" in render.one(made)


def test_whole_record_has_every_part(tmp_path: Path) -> None:
    made = section.of(pages.whole(), tmp_path, "r1")
    assert [part.name for part in made.parts] == [
        *("results", "before-after", "calls", "roofline", "operators", "cost", "parity", "facts")
    ]
    assert [what for what, _ in made.missing] == ["Latency against length"]


def test_record_without_results_or_environment_is_a_page(tmp_path: Path) -> None:
    bare = samples.record().model_copy(
        update={"results": [], "environment": None, "status": "failed", "reason": "killed"}
    )
    text = page_of(bare, tmp_path)
    assert "killed" in text and "<figure" not in text


def test_calls_of_no_time_are_no_fault(tmp_path: Path) -> None:
    zero = {"latency_ms": Latency.of([0.0] * 10)}
    row = samples.result("tvm-optimized", 1.0).model_copy(update=zero)
    text = page_of(samples.record().model_copy(update={"results": [row]}), tmp_path)
    assert "0 ms" in text


def test_every_pin_of_an_image_is_shown_and_a_debug_build_marked(tmp_path: Path) -> None:
    made = bare(pages.whole(labels=pages.DEBUG))
    text = page_of(made, tmp_path)
    assert all(label in text and value in text for label, value in pages.DEBUG.items())
    assert "Debug build" in text and facts.debug(made) == "Debug"
    assert "Debug" not in page_of(
        bare(pages.whole(labels={"io.gpt-frontend.profile": "cpu"})), tmp_path
    )
    local = page_of(bare(pages.whole()), tmp_path)
    assert "docker/pins.toml when this page was made" in local


def test_record_is_embedded_whole_unless_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = pages.hostile()
    text = page_of(record, tmp_path)
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert RunRecord.model_validate(json.loads(data)) == record
    assert "\x1b" not in text and "\x07" not in text and "<!-- ${" not in text
    monkeypatch.setattr(section, "LARGEST_DATA", 100)
    text = page_of(bare(record), tmp_path)
    assert '<script type="application/json"' not in text and f"<code>{tmp_path}</code>" in text


def test_whiskers_are_intervals_over_rounds_and_else_percentiles() -> None:
    one = spread.of(pages.latency(100.0, 1, 0))
    assert one.what == "p10 to p90 of 10 calls" and one.low < one.middle < one.high
    few = spread.of(pages.latency(100.0, 3, 0))
    assert few.what == "range of the medians of 3 rounds"
    many = spread.of(pages.latency(100.0, 12, 0))
    assert many.what == "95% interval of the median of 12 rounds"
    assert many.low < many.middle < many.high


def test_only_runs_that_are_alike_are_joined_to_a_line() -> None:
    gathered = Lengths()
    for length, dtype in ((32, "float32"), (64, "float32"), (64, "bfloat16"), (128, "bfloat16")):
        gathered.add(pages.whole(spec=JobSpec(seq_len=length, dtype=dtype), rounds=1))
    gathered.add(pages.whole(spec=JobSpec(seq_len=256, batch_size=4), rounds=1))
    charts, unseen = gathered.charts()
    tables = [chart.table for chart in charts]
    assert unseen == 0 and len(charts) == 2
    lengths = [sorted({int(row[2]) for row in table.rows}) for table in tables if table]
    assert sorted(lengths) == [[32, 64], [64, 128]]


def test_newest_of_two_runs_of_one_length_counts() -> None:
    gathered = Lengths()
    for length, scale in ((32, 0.5), (64, 5.0), (64, 1.0)):
        gathered.add(pages.whole(spec=JobSpec(seq_len=length), rounds=1, scale=scale))
    ((chart,), _) = gathered.charts()
    assert chart.table is not None
    row = next(row for row in chart.table.rows if row[0] == "torch-eager" and row[2] == "64")
    assert float(row[3]) == pytest.approx(121.4, rel=0.05)


def test_unreadable_records_are_named_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = pages.publish(tmp_path, samples.record())
    newer = json.loads((good / runs.RECORD).read_text()) | {"schema_version": 99}
    for name, text in (
        ("1-truncated", (good / runs.RECORD).read_text()[:500]),
        ("2-newer", json.dumps(newer)),
        ("3-damaged", '{"schema_version": 1}'),
        ("4-deep", "[" * 100_000),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / runs.RECORD).write_text(text)
    write("--all", tmp_path)
    text = (tmp_path / verbs.PAGE).read_text()
    said = capsys.readouterr().err.replace("\n", "")
    for name in ("1-truncated", "2-newer", "3-damaged", "4-deep"):
        assert name in text and name in said
    assert "<h1>1 run<" in text
    write(f"{good.name},2-newer,1-truncated", tmp_path, to=tmp_path / "some.html")
    assert "schema_version 99" in (tmp_path / "some.html").read_text()
    with pytest.raises(UsageFault, match="99"):
        write("2-newer", tmp_path)


def test_many_runs_are_bounded_and_what_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overview, "SECTIONS", 1)
    for place in range(4):
        pages.publish(tmp_path, samples.record(f"20260101-00000{place}-gpt2-abcd"))
    write("all", tmp_path, limit=3)
    text = (tmp_path / verbs.PAGE).read_text()
    assert "The newest 3 of 4 runs" in text and "The newest 1 of 3 runs" in text
    assert "20260101-000000" not in text and text.count('<details class="run"') == 1
    assert "the newest 3 of 4 runs" in capsys.readouterr().err


def test_figures_are_written_as_svg_and_png(tmp_path: Path) -> None:
    path = pages.publish(tmp_path, samples.record())
    write(path.name, tmp_path, figures=tmp_path / "figures")
    files = sorted(one.name for one in (tmp_path / "figures").iterdir())
    assert files == [f"{name}.{kind}" for name in ("calls", "cost", "latency")
                     for kind in ("png", "svg")]  # fmt: skip
    for one in (tmp_path / "figures").glob("*.svg"):
        root = ElementTree.parse(one).getroot()
        assert root.find("{http://www.w3.org/2000/svg}desc") is not None
        assert "var(" not in one.read_text()
    for one in (tmp_path / "figures").glob("*.png"):
        assert one.read_bytes().startswith(b"\x89PNG")


def test_page_is_published_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pages.publish(tmp_path, samples.record())
    write("last", tmp_path)
    before = (path / verbs.PAGE).read_bytes()
    with pytest.raises(UsageFault, match="cannot write"):
        write("last", tmp_path, to=tmp_path / "no" / "such.html")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageFault, match="No space left"):
        write("last", tmp_path)
    assert (path / verbs.PAGE).read_bytes() == before
    assert sorted(one.name for one in path.iterdir()) == ["job.log", "record.json", "report.html"]


@pytest.mark.parametrize(
    ("named", "filters", "told"),
    [
        ("20990101", Filters(), "no run"),
        (" , ", Filters(), "no run is named"),
        ("last", Filters(model="gpt2"), "filters go with --all"),
        ("--all", Filters(model="bert*"), "no run under"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    tmp_path: Path, named: str, filters: Filters, told: str
) -> None:
    pages.publish(tmp_path, samples.record())
    with pytest.raises(UsageFault, match=told):
        write(named, tmp_path, filters=filters)
    assert not list(tmp_path.rglob("*.html"))


def test_where_no_browser_can_be_opened_the_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pages.publish(tmp_path, samples.record())
    opened: list[str] = []

    def no_browser(url: str) -> bool:
        opened.append(url)
        return False

    monkeypatch.setattr("webbrowser.open", no_browser)
    write("last", tmp_path, show=True)
    assert opened == [(path / verbs.PAGE).as_uri()]
    assert "no browser could be opened here" in capsys.readouterr().err


def test_colours_stand_out_from_their_ground() -> None:
    grounds = palette.COLORS["ground"]
    for name, pair in palette.COLORS.items():
        least = {"ground": 1.0, "grid": 1.0, "ink": 4.5, "soft": 4.5}.get(name, 3.0)
        for color, ground in zip(pair, grounds, strict=True):
            assert contrast(color, ground) >= least, (name, color)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: the ratio of the relative luminances, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (9123.4, "9,123"), (99.96, "100"), (12.34, "12.3"), (0.04567, "0.0457"),
     (1.2e-6, "1.2e-06")],
)  # fmt: skip
def test_numbers_have_the_digits_that_count(value: float, said: str) -> None:
    assert number(value) == said
