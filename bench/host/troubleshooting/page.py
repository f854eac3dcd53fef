"""The errors as one page of Markdown, grouped by area, each with its own anchor."""

# ruff: noqa: RUF001 -- its marks of a placeholder are meant
# Values stand in angle quotation marks, which no message has of its own.

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.host.troubleshooting import scripts, tables
from bench.host.troubleshooting.areas import AREAS, Area, area_of
from bench.host.troubleshooting.sites import Site, sites
from bench.host.troubleshooting.tree import Project
from bench.host.troubleshooting.words import is_open

LONGEST_ANCHOR = 60
LEAD = """\
<!-- Made by `python -m bench.host.troubleshooting` from the code. Do not edit it by hand. -->
# Every error this program prints

Made from the code by

    python -m bench.host.troubleshooting

and held equal to it by a test. Advice that is written by hand stands in
`bench/host/troubleshooting/advice.toml`.

An error is printed as `error: …` and, where something can be done, `hint: …`. Search this page for
some words of it: ‹name› stands for what changes from case to case. A message that comes in several
ways has an entry for each, and all hints that may go with it; the code was read and not run, so
that a way may stand here which the order of its steps rules out. Behind the exit status stand the
modules that make the error.

| exit status | meaning |
|---|---|
| 0 | done; `doctor` has nothing that blocks |
| 1 | the job failed, and its run is kept with the reason; or Invoke does not know an option |
| 2 | the request or the environment is wrong: nothing was started, nothing is left |
| 3 | `lock --check` and `update`: nothing is known to be wrong, and not everything could be asked |
| 130 | interrupted, of `make setup` and of the steps of an image's build |

`invoke --debug VERB` shows where an error comes from. On Windows see also [wsl2.md](wsl2.md); what
doctor's checks look at is in [doctor.md](doctor.md).
"""
OPEN_LEAD = "**In words of others.** Handed on as they come, so there is nothing to search for:"


@dataclass
class Entry:
    """One message and all places that make it."""

    text: str
    sites: list[Site] = field(default_factory=list)

    @property
    def hints(self) -> list[str]:
        return list(dict.fromkeys(hint for site in self.sites for hint in site.hints))

    @property
    def codes(self) -> list[str]:
        return list(dict.fromkeys(site.code for site in self.sites))

    @property
    def modules(self) -> list[str]:
        return list(dict.fromkeys(site.module for site in self.sites))

    @property
    def about(self) -> list[str]:
        return list(dict.fromkeys(site.about for site in self.sites if site.about))


def found(root: Path) -> list[Site]:
    """Every place under a root that makes an error: of the Python code, then of the scripts."""
    return [*sites(Project(root)), *scripts.sites(root)]


def entries(made: Iterable[Site]) -> dict[str, list[Entry]]:
    """Title of the area to its errors, in the order of their words."""
    grouped: dict[str, dict[str, Entry]] = {area.title: {} for area in AREAS}
    for site in made:
        into = grouped[area_of(site.module).title]
        for message in site.messages:
            text = _one_line(message)
            into.setdefault(text, Entry(text)).sites.append(site)
    return {
        title: sorted(of.values(), key=lambda one: (_slug(one.text), one.text))
        for title, of in grouped.items()
    }


def anchors(grouped: Mapping[str, list[Entry]]) -> dict[tuple[str, str], str]:
    """(area, text) to anchor: of the words alone, so that it stays where other errors come."""
    plain = {
        (title, one.text): _slug(one.text)
        for title, of in grouped.items()
        for one in of
        if not is_open(one.text)
    }
    often = Counter(plain.values())
    return {
        key: slug
        if often[slug] == 1 and len(slug) <= LONGEST_ANCHOR
        else f"{slug[:LONGEST_ANCHOR].rstrip('-')}-{_mark(*key)}"
        for key, slug in plain.items()
    }


def text(root: Path, advice: Mapping[str, str]) -> str:
    """The page of the project under a root. ``advice``: message to what a person has to add."""
    grouped = entries(found(root))
    named = anchors(grouped)
    causes = tables.found(Project(root))
    parts = [LEAD]
    parts.append("\n".join(f"- [{area.title}](#{_slug(area.title)})" for area in AREAS))
    for area in AREAS:
        parts += _area(area, grouped[area.title], named, causes, advice)
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _area(
    area: Area,
    listed: list[Entry],
    named: Mapping[tuple[str, str], str],
    causes: Iterable[tables.Table],
    advice: Mapping[str, str],
) -> list[str]:
    parts = [f"## {area.title}", area.lead]
    for one in listed:
        if not is_open(one.text):
            parts.append(_entry(one, named[area.title, one.text], advice.get(one.text)))
    for table in causes:
        if area_of(table.module) is area:
            parts.append(_table(table))
    handed_on = [line for one in listed if is_open(one.text) for line in _handed_on(one)]
    if handed_on:
        parts.append("\n".join([OPEN_LEAD, "", *dict.fromkeys(handed_on)]))
    return parts


def _entry(one: Entry, anchor: str, added: str | None) -> str:
    where = ", ".join(f"`{module}`" for module in one.modules)
    lines = [f'<a id="{anchor}"></a>{_code(one.text)}', ""]
    lines += [f"- {why}" for why in map(_one_line, one.about)]
    lines += [f"- hint: {_code(_one_line(hint))}" for hint in one.hints if hint]
    if added:
        lines.append(f"- {added}")
    lines.append(f"- exit status {'; '.join(one.codes)}; {where}")
    return "\n".join(lines)


def _handed_on(one: Entry) -> list[str]:
    said = []
    for site in one.sites:
        hints = " or ".join(_code(_one_line(hint)) for hint in site.hints if not is_open(hint))
        where = f"`{site.module}`" + (f", `{site.function}`" if site.function else "")
        doc = f" ({site.doc.rstrip('.')})" if site.doc else ""
        end = f"; hint: {hints}" if hints else ""
        said.append(f"- {_code(one.text)} of {where}{doc}: exit status {site.code}{end}")
    return said


def _table(table: tables.Table) -> str:
    rows = [f"| {_cell(words)} | {_cell(hint)} |" for words, hint in table.rows]
    lead = f"{table.lead} (`{table.module}`; the first that fits):"
    return "\n".join([lead, "", "| words in the output | hint |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return _code(_one_line(text)).replace("|", "\\|")


def _code(text: str) -> str:
    """Inline code, with as many backticks around it as its own need."""
    if "`" not in text:
        return f"`{text}`"
    return f"`` {text} ``"


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ↵ ", text).strip()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _mark(title: str, text: str) -> str:
    return hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:6]
