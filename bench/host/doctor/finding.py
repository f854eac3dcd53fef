"""What a check found, and how findings are shown: as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

Level = Literal["ok", "note", "blocks"]


@dataclass(frozen=True)
class Finding:
    """What was seen, why it matters, and the command that mends it.

    ``blocks`` stops the local engine, the least that must work, or the build of the profile that
    was asked about; a ``note`` only narrows what can be done. Both say why and how to mend it.
    """

    check: str
    level: Level
    seen: str
    why: str = ""
    remedy: str = ""


def ok(check: str, seen: str) -> Finding:
    """Nothing to mend."""
    return Finding(check, "ok", seen)


def note(check: str, seen: str, why: str, remedy: str) -> Finding:
    """Something that narrows what can be done here."""
    return Finding(check, "note", seen, why, remedy)


def table(findings: Sequence[Finding]) -> Table:
    """The findings for a terminal."""
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "check", "seen", "what to do"):
        built.add_column(name, overflow="fold")
    marks = {"ok": "[green]ok", "note": "[yellow]note", "blocks": "[red]blocks"}
    for finding in findings:
        todo = ". ".join(filter(None, [finding.why, finding.remedy]))
        built.add_row(marks[finding.level], finding.check, escape(finding.seen), escape(todo))
    return built


def as_data(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON holds them: five strings each."""
    return [asdict(finding) for finding in findings]
