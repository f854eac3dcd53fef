"""The report as a browser shows it: drawn whole, clean, accessible, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import AXE, Open

# Every <text> of a chart that is shown, with where it is, beside where its chart is.
_TEXTS = """() => [...document.querySelectorAll('figure svg')]
  .filter((svg) => svg.getBoundingClientRect().width > 0)
  .map((svg) => {
    const place = (one) => {
      const { left, right, top, bottom } = one.getBoundingClientRect();
      return { left, right, top, bottom };
    };
    const texts = [...svg.querySelectorAll('text')].filter((one) => one.textContent.trim());
    return {
      name: svg.closest('figure').id,
      place: place(svg),
      shapes: svg.querySelectorAll('path, use').length,
      texts: texts.map((one) => ({ text: one.textContent, turned: /rotate\\(-90/.test(
        one.getAttribute('transform') || ''), ...place(one) })),
    };
  })"""
_OPEN_ALL = "() => { for (const one of document.querySelectorAll('details')) one.open = true; }"
_SLACK = 2.0  # pixels: a box of text has air above and below its letters


def violations(page: Any) -> list[str]:
    page.evaluate(AXE.read_text())
    found = page.evaluate("async () => (await axe.run(document)).violations")
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]


def overlapping(texts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for index, one in enumerate(texts):
        for other in texts[index + 1 :]:
            across = min(one["right"], other["right"]) - max(one["left"], other["left"])
            down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
            if across > _SLACK and down > _SLACK + 1:
                found.append((one["text"], other["text"]))
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", ["whole", "many"])
def test_page_is_whole_clean_and_accessible(
    opened: Open, made: dict[str, Path], name: str, width: int, theme: str
) -> None:
    found = opened(name, width, theme)
    found.page.evaluate(_OPEN_ALL)
    assert violations(found.page) == []
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.said == []
    assert found.asked == [made[name].as_uri()]
    ground = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")


@pytest.mark.parametrize("name", ["failed", "hostile", "trained", "decode"])
def test_other_kinds_of_runs_are_clean_and_accessible_on_a_phone(opened: Open, name: str) -> None:
    found = opened(name, 360, "dark")
    found.page.evaluate(_OPEN_ALL)
    assert violations(found.page) == []
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert found.said == []


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", ["whole", "failed", "decode", "trained", "many"])
def test_charts_are_drawn_and_their_texts_are_whole_and_apart(
    opened: Open, name: str, width: int
) -> None:
    page = opened(name, width).page
    page.evaluate(_OPEN_ALL)
    charts = page.evaluate(_TEXTS)
    assert len(charts) == page.locator("figure").count() > 0
    for chart in charts:
        around = chart["place"]
        assert chart["shapes"] > 10, chart["name"]
        assert len(chart["texts"]) > 5, chart["name"]
        assert around["bottom"] - around["top"] > 120, chart["name"]
        for text in chart["texts"]:
            inside = (
                text["left"] >= around["left"] - _SLACK
                and text["right"] <= around["right"] + _SLACK
                and text["top"] >= around["top"] - _SLACK
                and text["bottom"] <= around["bottom"] + _SLACK
            )
            assert inside, (chart["name"], text)
        assert overlapping(chart["texts"]) == [], chart["name"]


def test_phone_is_given_letters_that_can_be_read(opened: Open) -> None:
    page = opened("whole", 360).page
    heights = [
        text["right"] - text["left"] if text["turned"] else text["bottom"] - text["top"]
        for chart in page.evaluate(_TEXTS)
        for text in chart["texts"]
    ]
    assert min(heights) >= 9


def test_every_chart_has_a_title_an_alternative_and_labelled_axes(opened: Open) -> None:
    page = opened("whole").page
    for figure in page.locator("figure").all():
        svg = figure.locator(".wide svg")
        assert svg.get_attribute("role") == "img"
        title, words = (
            page.locator(f"#{name}").text_content()
            for name in svg.get_attribute("aria-labelledby").split()
        )
        assert title and len(words) > 60
        assert any(digit.isdigit() for digit in words)
        assert words == figure.locator("figcaption p").first.text_content()
        texts = svg.locator("text").all_text_contents()
        assert title in texts
        units = ("ms", "GFLOP/s", "seconds", "MiB")
        assert any(unit in text for text in texts for unit in units), title


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_debug_builds_are_marked(opened: Open, theme: str) -> None:
    page = opened("failed", theme=theme).page
    badge = page.locator("h1 .badge.debug")
    assert badge.is_visible() and badge.text_content() == "Debug build"
    assert "Debug" in page.title()
    many = opened("many", theme=theme).page
    assert "1 Debug" in many.locator("h1").text_content()
    row = many.locator("#overview-table tbody tr", has_text="gpt2-f")
    assert "Debug" in row.text_content()
    assert opened("whole", theme=theme).page.locator(".badge.debug").count() == 0


def test_failed_run_says_why_and_shows_the_end_of_its_log(opened: Open) -> None:
    page = opened("failed").page
    assert "2 of 5 backends failed" in page.locator(".verdict").text_content()
    assert "Killed" in page.locator("pre").first.text_content()
    assert "exit code 137" in page.locator(".notes").text_content()
    row = page.locator("#r1-results-1 tbody tr.failed")
    assert row.locator("th").text_content() == "tvm-none"


def test_hostile_strings_are_shown_and_do_nothing(opened: Open) -> None:
    found = opened("hostile")
    page = found.page
    page.evaluate(_OPEN_ALL)
    assert page.evaluate("window.owned") is None
    text = page.locator("body").inner_text()
    assert "<script>window.owned = 1</script>" in text and "{{ 7*7 }}" in text
    assert not [one for one in text if not one.isprintable() and one not in "\n\t"]
    # The record, and the page's own: no element came from a string.
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    assert page.locator("svg script, svg foreignObject").count() == 0
    assert found.said == []


def test_damaged_record_is_named_and_the_rest_is_shown(opened: Open) -> None:
    page = opened("many").page
    assert "20260109-damaged" in page.locator(".notes").first.text_content()
    assert page.locator("#overview-table tbody tr").count() == 7
    assert page.locator("#lengths").count() == 1


def test_page_can_reach_nothing(opened: Open) -> None:
    page = opened("whole").page
    blocked = page.evaluate(
        """async () => {
          const tried = [];
          document.addEventListener('securitypolicyviolation', (e) =>
            tried.push(e.effectiveDirective));
          try { await fetch('https://example.org/'); } catch { tried.push('fetch failed'); }
          const image = new Image();
          image.src = 'https://example.org/a.png';
          const script = document.createElement('script');
          script.textContent = 'window.owned = 1';
          document.body.append(image, script);
          await new Promise((done) => setTimeout(done, 100));
          return tried;
        }"""
    )
    assert {"connect-src", "img-src", "fetch failed"} <= set(blocked)
    assert page.evaluate("window.owned") is None


def test_without_scripts_everything_can_be_read(opened: Open) -> None:
    page = opened("whole", java_script_enabled=False).page
    assert page.locator("figure .wide svg").first.is_visible()
    assert page.locator("#r1-results-1 tbody tr").count() == 5
    assert not page.get_by_role("button").all()
    assert not page.locator("input").all()
