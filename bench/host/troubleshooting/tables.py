"""The tables by which the program reads what other programs say: their words, and the hint."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from bench.host.troubleshooting.tree import Module, Project
from bench.host.troubleshooting.words import Reader

# Module and name of each: a tuple of rows that begin with a pattern and end with a hint.
LEADS = {
    ("bench.host.venv", "REMEDIES"): "What pip says",
    ("bench.host.buildx", "CAUSES"): "What a build's log says, where no step of ours does",
    ("bench.build.fetch.git", "CAUSES"): "What git says while it fetches",
    ("bench.host.doctor.gpu", "SMI_REMEDIES"): "What nvidia-smi says",
    ("bench.host.doctor.gpu", "REFUSALS"): "What an engine says that gives a container no GPU",
}


@dataclass(frozen=True)
class Table:
    """One of them: regular expressions, each with what the user is told."""

    module: str
    lead: str
    rows: tuple[tuple[str, str], ...]


def found(project: Project) -> list[Table]:
    """Those of the project, with their constants filled in."""
    tables = []
    for (module_name, name), lead in LEADS.items():
        module = project.modules.get(module_name)
        if module is not None and isinstance(table := module.names.get(name), ast.Tuple):
            tables.append(Table(module_name, lead, tuple(_rows(project, module, table))))
    return tables


def _rows(project: Project, module: Module, table: ast.Tuple) -> Iterator[tuple[str, str]]:
    reader = Reader(project, module)
    for row in table.elts:
        if isinstance(row, ast.Tuple):
            words, hint = reader.texts(row.elts[0]), reader.texts(row.elts[-1])
            yield "".join(words), " or ".join(hint)
