"""The page: templates filled, one file that asks for no other.

Everything from a record goes through Jinja's escaping, and through ``report.plain`` before it. The
page's own rule (CSP) forbids it every connection, and every script but the one it was made with.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.history.wording import plain
from bench.host.page import palette
from bench.host.page.chart import Chart
from bench.host.page.overview import Overview
from bench.host.page.section import Section, embedded

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def one(section: Section) -> str:
    """The page of one run."""
    title = f"{section.record.spec.named} {section.record.spec.mode}"
    return _page(title=title, sections=[section], overview=None, debug=section.debug)


def many(overview: Overview) -> str:
    """The page of several runs."""
    return _page(
        title=f"{overview.total:,} run" + "s" * (overview.total != 1),
        sections=overview.sections,
        overview=overview,
        debug=overview.debug,
    )


def _page(**facts: Any) -> str:
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    style = style.replace("/* light */", palette.variables(dark=False))
    style = style.replace("/* dark */", palette.variables(dark=True))
    return (
        _environment()
        .get_template("page.html")
        .render(style=_trusted(style), script=_trusted(script), sum=_sum(script), **facts)
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # Takes a moment to import, and most verbs do without it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["drawn"] = _drawn
    made.filters["embedded"] = lambda text: _trusted(embedded(text))
    return made


def _inert(value: Any) -> Any:
    """Text for the page, without control characters; what we made ourselves is as it is."""
    return value if not isinstance(value, str) or hasattr(value, "__html__") else plain(value)


def _drawn(chart: Chart, prefix: str, wide: bool) -> Any:
    return _trusted(chart.inline(f"{prefix}-{'w' if wide else 'n'}", wide=wide))


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _sum(script: str) -> str:
    """What CSP allows the script by: over its text as it stands between the tags."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
