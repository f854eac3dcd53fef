"""Debian's Chromium, driven by Playwright; the pages, each made once and opened by every test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.host import runs
from bench.host.history.query import Filters
from bench.host.page import overview, verbs
from bench.record import JobSpec
from tests.conftest import cannot_run
from tests.unit import pages

HERE = Path(__file__).parent
AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"
# It runs as root in CI, and has nothing to ask its makers.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; without one, or without what drives and checks it, the gate is shut."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        cannot_run("playwright is not installed: make setup-browser")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        cannot_run("there is no chromium: apt-get install chromium")
    if not AXE.is_file():
        cannot_run(f"{AXE.relative_to(HERE)} is not there: make setup-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name: of one run that has everything, of others, and of many runs."""
    out = tmp_path_factory.mktemp("results")
    single = {
        "whole": pages.whole(),
        "decode": pages.whole("20260101-000003-gpt2-d", JobSpec(mode="decode"), rounds=1),
        "failed": pages.with_failures().model_copy(update={"run_id": "20260101-000002-gpt2-f"}),
        "hostile": pages.hostile(),
        "trained": pages.trained(),
    }
    found = {}
    for name, record in single.items():
        path = pages.publish(out / name, record, f"{pages.HOSTILE}\nKilled\n")
        write(path.name, out / name)
        found[name] = path / verbs.PAGE
    many = out / "many"
    pages.lengths(many, (32, 64, 128))
    pages.publish(many, single["failed"])
    (many / "20260109-damaged").mkdir()
    (many / "20260109-damaged" / runs.RECORD).write_text('{"schema_version": 1, "run_id"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overview, "SECTIONS", 1)  # each takes its time, to draw and to look at
        write("--all", many)
    found["many"] = many / verbs.PAGE
    return found


def write(named: str, out: Path) -> None:
    filters = Filters()
    verbs.write(named, out, filters, limit=None, to=None, figures=None, show=False)


@dataclass
class Opened:
    """A page with what the browser has said and asked for since it was opened."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


Open = Callable[..., Opened]


@pytest.fixture
def opened(chromium: Any, made: dict[str, Path]) -> Iterator[Open]:
    """Opens a page by its name, in a context of its own."""
    contexts = []

    def open_page(name: str, width: int = 1400, theme: str = "light", **options: Any) -> Opened:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            offline=True,
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        found = Opened(page)
        page.on("console", lambda message: found.said.append(message.text))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("request", lambda request: found.asked.append(request.url))
        page.goto(made[name].as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()
