"""The report in use: tables sorted and filtered, files saved, the page printed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.record import RunRecord
from tests.browser.conftest import Open
from tests.unit import pages

RESULTS = "#r1-results-1"


def column(page: Any, table: str, place: int) -> list[str]:
    found: list[str] = page.locator(f"{table} tbody tr:visible").evaluate_all(
        f"(rows) => rows.map((row) => row.cells[{place}].textContent.trim())"
    )
    return found


def heading(page: Any, name: str) -> Any:
    return page.locator(f"{RESULTS} thead th", has=page.get_by_role("button", name=name))


def test_table_is_sorted_by_number_and_by_word(opened: Open) -> None:
    page = opened("whole").page
    median = heading(page, "median ms")
    median.get_by_role("button").click()
    assert median.get_attribute("aria-sort") == "ascending"
    up = [float(cell) for cell in column(page, RESULTS, 2)]
    assert up == sorted(up) and len(up) == 5
    median.get_by_role("button").click()
    assert median.get_attribute("aria-sort") == "descending"
    assert [float(cell) for cell in column(page, RESULTS, 2)] == up[::-1]
    heading(page, "backend").get_by_role("button").click()
    assert column(page, RESULTS, 0) == sorted(pages.MEDIANS)
    assert median.get_attribute("aria-sort") == "none"


def test_what_is_no_number_stays_behind_those_that_are(opened: Open) -> None:
    page = opened("whole").page
    button = heading(page, "compile s").get_by_role("button")
    for _ in range(2):
        button.click()
        assert column(page, RESULTS, 8)[-1] == "-"


def test_table_is_sorted_and_filtered_by_keyboard(opened: Open) -> None:
    page = opened("whole").page
    button = heading(page, "p10").get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert heading(page, "p10").get_attribute("aria-sort") == "ascending"
    page.locator(f"{RESULTS}-filter").focus()
    page.keyboard.type("torch")
    assert sorted(column(page, RESULTS, 0)) == ["torch-compile", "torch-eager"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"


def test_filter_takes_several_words_and_says_how_many_are_left(opened: Open) -> None:
    page = opened("whole").page
    table = "#r1-operators-1"
    box = page.locator(f"{table}-filter")
    told = page.locator(f"output[for='{table[1:]}-filter']")
    rows = page.locator(f"{table} tbody tr").count()
    assert told.text_content() == f"{rows} of {rows} rows"
    box.fill("SOFTMAX optimized")
    assert column(page, table, 0) == ["tvm-optimized"]
    assert told.text_content() == f"1 of {rows} rows"
    box.fill("no such thing")
    assert column(page, table, 0) == []
    box.fill("")
    assert len(column(page, table, 0)) == rows


def saved(page: Any, button: Any) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        button.click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_chart_is_saved_as_svg_on_white(opened: Open, theme: str) -> None:
    page = opened("whole", 360, theme).page
    figures = page.locator("figure").all()
    assert len(figures) == 6
    for figure in figures:
        name, content = saved(page, figure.get_by_role("button", name="SVG"))
        assert name == f"{figure.get_attribute('data-name')}.svg"
        root = ElementTree.fromstring(content)
        assert b"var(" not in content and b"#fe01" not in content
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert len(list(root.iter("{http://www.w3.org/2000/svg}text"))) > 5


def test_chart_is_saved_as_a_picture_with_something_on_it(opened: Open) -> None:
    from PIL import Image

    page = opened("whole", theme="dark").page
    name, content = saved(page, page.locator("figure").first.get_by_role("button", name="PNG"))
    assert name == "latency.png"
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    assert picture.width > 1500 and picture.height > 500
    assert picture.getpixel((2, 2)) == (255, 255, 255)
    shown = {color for count, color in picture.getcolors(2**24) or [] if count > 500}
    assert {(0, 114, 178), (198, 79, 0)} <= shown  # after's blue and before's vermillion


def test_record_is_saved_as_it_was(opened: Open) -> None:
    page = opened("whole").page
    name, content = saved(page, page.get_by_role("button", name="record.json"))
    assert name == "record.json"
    assert RunRecord.model_validate_json(content) == pages.whole()


def test_samples_are_saved_as_csv_that_no_spreadsheet_runs(opened: Open) -> None:
    page = opened("decode").page
    name, content = saved(page, page.get_by_role("button", name="samples.csv"))
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert name == "samples.csv" and len(rows) == 5 * 2 * 10
    record = pages.whole()
    assert {row["backend"] for row in rows} == {one.backend for one in record.results}
    assert {row["metric"] for row in rows} == {"latency", "ttft"}
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    hostile = opened("hostile").page
    hostile.evaluate(
        """() => {
          const data = document.getElementById('r1-record');
          const record = JSON.parse(data.textContent);
          record.results[0].backend = '=1+1';
          data.textContent = JSON.stringify(record);
        }"""
    )
    _, content = saved(hostile, hostile.get_by_role("button", name="samples.csv"))
    assert next(csv.DictReader(io.StringIO(content.decode())))["backend"] == "'=1+1"


def test_record_in_the_page_is_json_that_others_can_read(
    opened: Open, made: dict[str, Path]
) -> None:
    text = opened("hostile").page.locator("#r1-record").text_content()
    assert RunRecord.model_validate(json.loads(text)) == pages.hostile()


def test_paper_gets_all_of_it_on_white_and_no_controls(opened: Open) -> None:
    page = opened("whole", theme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator(".filter").first.is_visible()
    assert not page.locator(".saves").first.is_visible()
    ink, ground = page.evaluate(
        "() => { const is = getComputedStyle(document.documentElement);"
        "return [is.getPropertyValue('--ink'), is.getPropertyValue('--ground')]; }"
    )
    assert (ink.strip(), ground.strip()) == ("#1b1f24", "#ffffff")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("name", ["whole", "many"])
def test_nothing_is_cut_on_paper(opened: Open, name: str) -> None:
    # A4 with margins of 14 mm is 687 pixels wide.
    page = opened(name, 687).page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    cut = page.evaluate(
        """() => [...document.querySelectorAll('table, pre, svg, figure')]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => one.id || one.tagName)"""
    )
    assert cut == []
    hidden = page.evaluate(
        """() => [...document.querySelectorAll('.scroll')]
          .filter((one) => one.clientHeight && one.scrollHeight > one.clientHeight + 1)
          .map((one) => one.firstElementChild.id)"""
    )
    assert hidden == []
