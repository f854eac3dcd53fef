"""What an expression says, as far as reading can tell: its texts, with ‹name› for each value.

A name is followed to what it was assigned, a call of ours to what it returns, a parameter to what
its module's calls hand over, and a choice into all its branches. What is left is a value.
"""

# ruff: noqa: RUF001, RUF002 -- its marks of a placeholder are meant
# Values stand in angle quotation marks, which no message has of its own.

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bench.host.troubleshooting.tree import Function, Module, Project

_DEEP = 6
_MOST = 14  # texts of one expression; past it the parts that vary become values
_FEW = 5  # so many texts of a part are written out inside of a longer one
_NO_WORDS = {"error", "failed", "fault", "caught"}
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}

Texts = list[str]


@dataclass
class Reader:
    """Reads expressions of one module. ``bound``: what a loop gives its variables, by name."""

    project: Project
    module: Module
    bound: dict[str, list[ast.expr]] = field(default_factory=dict)
    deep: int = 0

    def texts(self, expression: ast.expr | None) -> Texts:
        """All that it may say; [] for None, and ["‹name›"] where nothing of it is known."""
        if expression is None or self.deep > _DEEP:
            return [] if expression is None else [value(expression)]
        found = list(dict.fromkeys(self._texts(expression)))
        return found if len(found) <= _MOST else [value(expression)]

    def _texts(self, expression: ast.expr) -> Iterable[str]:
        match expression:
            case ast.Constant(value=None):
                return []
            case ast.Constant(value=said):
                return [str(said)]
            case ast.JoinedStr(values=parts):
                return self._sentence(parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right) if not _counts(left, right):
                return _product([self.texts(left) or [""], self.texts(right) or [""]])
            case ast.BinOp():
                known = self._number(expression)
                return [value(expression) if known is None else f"{known:.15g}"]
            case ast.IfExp(body=body, orelse=other):
                return [*self.texts(body), *self.texts(other)]
            case ast.BoolOp(values=either):
                return itertools.chain.from_iterable(self.texts(one) for one in either)
            case ast.Name():
                return self._name(expression)
            case ast.Attribute():
                return self._attribute(expression)
            case ast.Subscript(value=ast.Name() as table):
                rows = self._table(table)
                return (
                    itertools.chain.from_iterable(map(self.texts, rows or []))
                    if rows
                    else [value(expression)]
                )
            case ast.Call():
                return self._call(expression)
            case ast.NamedExpr(value=inner):
                return self.texts(inner)
        return [value(expression)]

    def _sentence(self, parts: list[ast.expr]) -> Texts:
        read = [self._part(part) for part in parts]
        if math.prod(map(len, read)) > _MOST:
            pairs = zip(parts, read, strict=True)
            read = [said if len(said) == 1 else [value(part)] for part, said in pairs]
        return _product(read)

    def _part(self, part: ast.expr) -> Texts:
        """A part of an f-string: written out where it is fixed, or one of a few."""
        if not isinstance(part, ast.FormattedValue):
            return self.texts(part)
        inner = part.value
        found = self.texts(inner)
        # What nobody knows counts as one; a table's whole content would hide what is said.
        known = [one for one in found if not one or "‹" not in one or not is_open(one)]
        if len(known) < len(found) and not isinstance(inner, ast.Name | ast.IfExp):
            return [value(inner)]  # a function that shapes what it is given
        if len(known) < len(found):
            known.append(value(inner))
        return known if 0 < len(known) <= _FEW and known != [""] else [value(inner)]

    # --- names -------------------------------------------------------------------------------

    def _name(self, name: ast.Name) -> Iterator[str]:
        if name.id in self.bound:
            for one in self.bound[name.id]:
                yield from self._deeper().texts(one)
            return
        values = list(self._assigned(name))
        full = self.project.find(self.project.full(self.module, name))
        if not values and full and isinstance(full[1], ast.expr):
            yield from self._deeper(full[0]).texts(full[1])
            return
        found: Texts = []
        for reader, expression in values:
            if not (isinstance(expression, ast.Name) and expression.id == name.id):
                found += reader.texts(expression)
        yield from found or [value(name)]

    def _assigned(self, name: ast.Name) -> Iterator[tuple[Reader, ast.expr]]:
        """What the functions around a name give it: assignments, loops over tables, arguments."""
        for function in self.module.functions_around(name):
            seen = False
            for node in ast.walk(function):
                for target, given in _bindings(node):
                    for found in self._taken(name.id, target, given):
                        seen = True
                        yield self._deeper(), found
            if seen:
                return
            parameters = [argument.arg for argument in _parameters(function)]
            if name.id in parameters:
                yield from self._handed(function, name.id, parameters)
                return

    def _taken(self, name: str, target: ast.expr, given: ast.expr) -> Iterator[ast.expr]:
        if isinstance(target, ast.Name) and target.id == name:
            yield given
        elif isinstance(target, ast.Tuple):
            for place, part in enumerate(target.elts):
                if isinstance(part, ast.Name) and part.id == name:
                    yield from self._column(given, place)

    def _column(self, given: ast.expr, place: int) -> Iterator[ast.expr]:
        """The values at one place of a tuple, or of a choice of tuples."""
        if isinstance(given, ast.IfExp):
            yield from self._column(given.body, place)
            yield from self._column(given.orelse, place)
        elif isinstance(given, ast.Tuple) and place < len(given.elts):
            yield given.elts[place]

    def _handed(
        self, function: Function, name: str, parameters: list[str]
    ) -> Iterator[tuple[Reader, ast.expr]]:
        place = parameters.index(name) - (parameters[:1] in (["self"], ["cls"]))
        for call in self.module.calls_of(function.name):
            given = argument(call, place, name)
            if given is not None and not isinstance(given, ast.Starred):
                yield self._deeper(), given

    def _attribute(self, attribute: ast.Attribute) -> Iterator[str]:
        full = self.project.find(self.project.full(self.module, attribute))
        if full and isinstance(full[1], ast.expr):
            yield from self._deeper(full[0]).texts(full[1])
            return
        own = [
            node
            for node in ast.walk(self.module.tree)
            if isinstance(node, ast.FunctionDef)
            and node.name == attribute.attr
            and any(
                isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list
            )
        ]
        if len(own) == 1:
            yield from self._returned(self.module, own[0])
        else:
            yield value(attribute)

    # --- calls -------------------------------------------------------------------------------

    def _call(self, call: ast.Call) -> Iterable[str]:
        match call:
            case ast.Call(func=ast.Name(id="next"), args=[ast.GeneratorExp() as each, *rest]):
                found = self._generated(each)
                return [*found, *itertools.chain.from_iterable(map(self.texts, rest))]
            case ast.Call(func=ast.Name(id="str"), args=[only]):
                return self.texts(only)
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(glue)), attr="join")):
                return self._glued(glue, call.args[0])
            case ast.Call(func=ast.Attribute(value=ast.Name() as table, attr="get"), args=args):
                rows = self._table(table)
                if rows:
                    return itertools.chain.from_iterable(map(self.texts, [*rows, *args[1:]]))
            case ast.Call(func=ast.Attribute(attr="removeprefix" | "strip" | "rstrip")):
                return [value(call)]
        found_function = self.project.find(self.project.full(self.module, call.func))
        if found_function and isinstance(found_function[1], Function):
            said = list(self._returned(*found_function))
            if said and not all(is_open(one) for one in said):
                return said
        return [value(call)]

    def _returned(self, module: Module, function: ast.AST) -> Iterator[str]:
        reader = self._deeper(module)
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None:
                yield from reader.texts(node.value)

    def _glued(self, glue: str, given: ast.expr) -> Texts:
        if not isinstance(given, ast.List | ast.Tuple):
            return [value(given)]
        parts = [
            [value(one.value)] if isinstance(one, ast.Starred) else self._part_of_list(one)
            for one in given.elts
        ]
        return _product(list(itertools.chain(*([one, [glue]] for one in parts)))[:-1])

    def _part_of_list(self, one: ast.expr) -> Texts:
        return self.texts(one) or [""]

    def _generated(self, each: ast.GeneratorExp) -> Texts:
        loop = each.generators[0]
        rows = self._rows(loop.iter)
        targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        bound = {
            target.id: [
                row.elts[place] if isinstance(row, ast.Tuple) and len(targets) > 1 else row
                for row in rows
            ]
            for place, target in enumerate(targets)
            if isinstance(target, ast.Name)
        }
        reader = Reader(self.project, self.module, {**self.bound, **bound}, self.deep + 1)
        return reader.texts(each.elt)

    # --- tables ------------------------------------------------------------------------------

    def _rows(self, expression: ast.expr) -> list[ast.expr]:
        """The rows of a table that stands at some module's top level, or is handed over."""
        if isinstance(expression, ast.Tuple | ast.List):
            return expression.elts
        if isinstance(expression, ast.Name):
            full = self.project.find(self.project.full(self.module, expression))
            if full and isinstance(full[1], ast.Tuple | ast.List):
                return full[1].elts
            handed = [given for _, given in self._assigned(expression)]
            return list(
                itertools.chain.from_iterable(
                    self._rows(one) for one in handed if ast.dump(one) != ast.dump(expression)
                )
            )
        return []

    def _table(self, name: ast.Name) -> list[ast.expr] | None:
        full = self.project.find(self.project.full(self.module, name))
        return list(full[1].values) if full and isinstance(full[1], ast.Dict) else None

    def _number(self, expression: ast.expr) -> float | None:
        """A sum of constants, such as ``2 * GIB``."""
        if isinstance(expression, ast.Constant) and isinstance(expression.value, int | float):
            return expression.value
        if isinstance(expression, ast.Name | ast.Attribute):
            full = self.project.find(self.project.full(self.module, expression))
            if full and isinstance(full[1], ast.expr):
                return self._deeper(full[0])._number(full[1])
        if isinstance(expression, ast.BinOp) and type(expression.op) in _OPERATORS:
            left, right = self._number(expression.left), self._number(expression.right)
            if left is not None and right is not None:
                return float(_OPERATORS[type(expression.op)](left, right))
        return None

    def _deeper(self, module: Module | None = None) -> Reader:
        same = module is None or module is self.module
        return Reader(
            self.project, module or self.module, self.bound if same else {}, self.deep + 1
        )


def argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    """What a call hands over, by place or by name."""
    named = next((one.value for one in call.keywords if one.arg == name), None)
    if named is not None:
        return named
    return call.args[place] if 0 <= place < len(call.args) else None


def is_open(text: str) -> bool:
    """Whether a text holds nothing but values."""
    rest = text
    while "‹" in rest and "›" in rest:
        rest = rest[: rest.index("‹")] + rest[rest.index("›") + 1 :]
    return not any(one.isalpha() for one in rest)


def value(expression: ast.expr) -> str:
    """``‹name›`` for what only the moment knows."""
    return f"‹{_called(expression)}›"


def _called(expression: ast.expr) -> str:
    match expression:
        case ast.Name(id=name):
            plain = name.strip("_").lower().replace("_", " ")
            return "reason" if plain in _NO_WORDS else plain
        case ast.Attribute(value=owner, attr=name):
            if name in ("name", "id", "value") and not _is_self(owner):
                return _called(owner)
            if name in ("strerror", "message", "msg", "stderr", "args", "reason"):
                return "reason"
            return name.strip("_").lower().replace("_", " ")
        case ast.Call(func=ast.Name(id="map"), args=[_, each]):
            return _called(each)
        case ast.Call(func=ast.Name(), args=[first, *_]):
            return _called(first)
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=[first, *_]):
            return _called(first)
        case ast.Call(func=ast.Attribute(value=ast.Name(), attr=name), args=[first, *_]) if (
            name in ("masked", "plain", "brief", "shown", "quote", "basename", "relpath")
        ):
            return _called(first)
        case ast.Call(func=ast.Attribute(value=owner)):
            return _called(owner)
        case ast.Call(func=ast.Name(id=name)):
            return name.strip("_").replace("_", " ")
        case (
            ast.Subscript(value=owner) | ast.Starred(value=owner) | ast.FormattedValue(value=owner)
        ):
            return _called(owner)
        case ast.BinOp(left=left, right=right):
            return _called(right if isinstance(left, ast.Constant) else left)
        case ast.GeneratorExp(generators=[first, *_]) | ast.ListComp(generators=[first, *_]):
            return _called(first.iter)
        case ast.IfExp(body=body) | ast.NamedExpr(value=body):
            return _called(body)
        case ast.BoolOp(values=[first, *_]):
            return _called(first)
        case ast.Tuple(elts=[first, *_]) | ast.List(elts=[first, *_]):
            return _called(first)
    return "value"


def _is_self(owner: ast.expr) -> bool:
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def _counts(*sides: ast.expr) -> bool:
    """Whether a sum is one of numbers."""
    return any(isinstance(one, ast.Constant) and isinstance(one.value, int) for one in sides)


def _product(parts: list[Texts]) -> Texts:
    """Every way to put the parts together."""
    return ["".join(one) for one in itertools.islice(itertools.product(*parts), 4 * _MOST)]


def _bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    match node:
        case ast.Assign(targets=targets, value=given):
            yield from ((target, given) for target in targets)
        case ast.AnnAssign(target=target, value=ast.expr() as given):
            yield target, given
        case ast.NamedExpr(target=target, value=given):
            yield target, given
        case ast.For(target=target, iter=ast.Tuple(elts=rows)):
            yield from ((target, row) for row in rows)


def _parameters(function: Function) -> list[ast.arg]:
    listed = function.args
    return [*listed.posonlyargs, *listed.args, *listed.kwonlyargs]
