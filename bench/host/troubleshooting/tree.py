"""The project's Python read as a tree: every module, what it names and where each name is from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

FOLDERS = ("bench", "benchmarks", "docker")
FILES = ("tasks.py",)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file. ``names``: what stands at its top level; ``imports``: local name to full name."""

    name: str
    tree: ast.Module
    names: dict[str, ast.AST] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Each node's parent."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def functions_around(self, node: ast.AST) -> Iterator[Function]:
        """The functions that a node stands in, the innermost first."""
        above = self.parents.get(node)
        while above is not None:
            if isinstance(above, Function):
                yield above
            above = self.parents.get(above)

    def calls_of(self, name: str) -> Iterator[ast.Call]:
        """Where this module calls its function, or a method on ``self`` or its class."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Call(func=ast.Name(id=called)) if called == name:
                    yield node
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=called)) if (
                    called == name and (owner in ("self", "cls") or owner in self.names)
                ):
                    yield node


class Project:
    """All modules under a root, by their full names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        for path in _files(root):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            self.modules[name] = _read(name, path)

    def full(self, module: Module, expression: ast.expr) -> str | None:
        """The full name of what ``Name`` or ``module.Name`` stands for; None where it is local."""
        if isinstance(expression, ast.Name):
            if expression.id in module.names:
                return f"{module.name}.{expression.id}"
            return module.imports.get(expression.id)
        if isinstance(expression, ast.Attribute):
            owner = self.full(module, expression.value)
            return f"{owner}.{expression.attr}" if owner else None
        return None

    def find(self, full: str | None) -> tuple[Module, ast.AST] | None:
        """The module that defines a full name, and its definition."""
        for _ in range(3):  # a name may be passed on by a package's __init__
            owner, _, last = (full or "").rpartition(".")
            module = self.modules.get(owner)
            if module is None:
                return None
            if last in module.names:
                return module, module.names[last]
            full = module.imports.get(last)
        return None


def _files(root: Path) -> list[Path]:
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    found += [root / name for name in FILES if (root / name).is_file()]
    return sorted(found)


def _read(name: str, path: Path) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    module = Module(name, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module.imports[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef | Function):
            module.names[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    module.names[target.id] = statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            if isinstance(statement.target, ast.Name):
                module.names[statement.target.id] = statement.value
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            old = module.names.get(statement.target.id)
            if isinstance(old, ast.expr) and isinstance(statement.op, ast.Add):
                module.names[statement.target.id] = ast.BinOp(old, ast.Add(), statement.value)
    return module
