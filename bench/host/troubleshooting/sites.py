"""Every place in the Python code that makes an error which a user may see."""

# ruff: noqa: RUF001 -- its marks of a placeholder are meant
# Values stand in angle quotation marks, which no message has of its own.

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from bench.host.troubleshooting.tree import Function, Module, Project
from bench.host.troubleshooting.words import Reader, argument

BUILD_STEP = "1, of a step of an image's build, which ends with it"


@dataclass(frozen=True)
class Site:
    """One construction. ``messages`` is never empty; ``code`` is the exit status, in words."""

    module: str
    function: str
    kind: str
    messages: tuple[str, ...]
    hints: tuple[str, ...]
    code: str
    about: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Form:
    """How one callable takes its words: the place and the name of each, and its exit status."""

    kind: str
    code: str
    message: tuple[int, str] = (0, "message")
    hint: tuple[int, str] = (-1, "hint")
    # Words that stand before the message, with a colon, or after it.
    before: tuple[int, str] | None = None
    about: tuple[int, str] | None = None


# What is not an exception of ours and tells the user something all the same.
OTHERS = {
    "bench.record.Fault": Form("job", "1"),
    "bench.tasks.guard._stop": Form("guard", "1", hint=(1, "hint")),
    "invoke.Exit": Form("guard", "that of the error"),
    "bench.build.fetch.fault._tell": Form("step", BUILD_STEP, hint=(1, "hint")),
    "bench.host.doctor.finding.note": Form(
        "finding", "0: a note", (1, "seen"), (3, "remedy"), (0, "check"), (2, "why")
    ),
    "bench.host.doctor.finding.Finding": Form(
        "finding", "1 where it blocks", (2, "seen"), (4, "remedy"), (0, "check"), (3, "why")
    ),
    "bench.host.toolchain.rules.Broken": Form("rule", "2", (1, "reason"), before=(0, "what")),
    "sys.exit": Form("exit", "1"),
    "SystemExit": Form("exit", "1"),
}
RULE_HINT = "nearest good combination: ‹what to change›"


def forms(project: Project) -> dict[str, Form]:
    """The error classes by their full names: those that keep a hint, and their subclasses."""
    found = dict(OTHERS)
    classes = {
        f"{module.name}.{name}": (module, node)
        for module in project.modules.values()
        for name, node in module.names.items()
        if isinstance(node, ast.ClassDef)
    }
    for full, (module, node) in classes.items():
        if full not in found and (form := _own_form(full, module, node)):
            found[full] = form
    for _ in classes:  # subclasses of subclasses, until there is none left
        more = {
            full: _inherited(found[base], node)
            for full, (module, node) in classes.items()
            if full not in found
            for base in (project.full(module, one) or "" for one in node.bases)
            if base in found and base not in OTHERS
        }
        if not more:
            break
        found |= more
    return found


def sites(project: Project) -> list[Site]:
    """Every construction, in the order of the modules and of their lines."""
    known = forms(project)
    return [
        site
        for name in sorted(project.modules)
        for site in _in_module(project, project.modules[name], known)
    ]


def _in_module(project: Project, module: Module, known: dict[str, Form]) -> Iterator[Site]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            full = project.full(module, node.func)
            if full is None and isinstance(node.func, ast.Name):
                full = node.func.id  # a builtin
            form = known.get(full or "")
            if form is not None and not _is_definition(module, node, full or ""):
                made = _site(project, module, node, form)
                if made is not None:
                    yield made
            elif full == "print":
                yield from _printed(project, module, node)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from _raised(project, module, node.exc)
        elif isinstance(node, ast.Dict):
            yield from _row(project, module, node)


def _site(project: Project, module: Module, call: ast.Call, form: Form) -> Site | None:
    reader = Reader(project, module)
    given = argument(call, *form.message)
    if form.kind == "finding" and _level(call) == "ok":
        return None
    if form.kind == "exit" and (given is None or not _is_text(given, reader)):
        return None  # a number: whoever was called has told already
    messages = reader.texts(given) or ["‹reason›"]
    if form.before is not None:
        heads = reader.texts(argument(call, *form.before)) or ["‹check›"]
        messages = [f"{head}: {message}" for head in heads for message in messages]
    hints = reader.texts(argument(call, *form.hint))
    about = "; ".join(reader.texts(argument(call, *form.about))) if form.about else ""
    if form.kind == "rule":
        hints = [RULE_HINT]
    if form.kind == "exit":
        messages = [message.removeprefix("error: ") for message in messages]
    return _made(module, call, form.kind, messages, hints, _code(module, call, form, reader), about)


def _code(module: Module, call: ast.Call, form: Form, reader: Reader) -> str:
    given = next((one.value for one in call.keywords if one.arg == "exit_code"), None)
    if form.kind == "guard" and len(call.args) > 2:
        given = call.args[2]
    if form.kind == "finding":
        level = _level(call)
        return {"note": "0: a note", "blocks": "1: it blocks"}.get(
            level, "0: a note; 1 with --profile, whose build it blocks"
        )
    if given is None and form.kind == "step" and module.name.startswith("bench.host"):
        return "2"  # the host tells a build step's fault as its own
    statement = module.parents.get(call)
    beside: list[ast.AST] = getattr(module.parents.get(statement or call), "body", [])
    if form.kind == "step" and statement in beside:
        for after in beside[beside.index(statement) :]:
            if isinstance(after, ast.Return) and (status := _status(reader, after.value)):
                return f"{status}; {form.code[3:]}"
    if given is None:
        return form.code
    said = [one for one in reader.texts(given) if "‹" not in one]
    return " or ".join(said) or "that of the error"


def _level(call: ast.Call) -> str:
    if len(call.args) > 1 and isinstance(call.func, ast.Name) and call.func.id == "Finding":
        level = call.args[1]
        return str(level.value) if isinstance(level, ast.Constant) else ""
    return "note"


def _is_text(given: ast.expr, reader: Reader) -> bool:
    return isinstance(given, ast.JoinedStr | ast.Constant) and any(
        any(letter.isalpha() for letter in text) for text in reader.texts(given)
    )


def _printed(project: Project, module: Module, call: ast.Call) -> Iterator[Site]:
    """``print("error: …")``, with the hint in the same text or in the next statement."""
    if not call.args:
        return
    reader = Reader(project, module)
    said = [text for text in reader.texts(call.args[0]) if text.startswith("error: ")]
    if not said:
        return
    hints = [text.split("\nhint: ", 1)[1] for text in said if "\nhint: " in text]
    messages = [text.removeprefix("error: ").split("\nhint: ", 1)[0] for text in said]
    statement = module.parents.get(call)
    around = module.parents.get(statement) if statement else None
    block: list[ast.AST] = getattr(around, "body", [])
    for before, after in itertools.pairwise(block):
        if (
            before is statement
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Call)
        ):
            texts = reader.texts(after.value.args[0] if after.value.args else None)
            hints += [one.removeprefix("hint: ") for one in texts if one.startswith("hint: ")]
    code = "2"
    if module.name.startswith("bench.build"):
        code = BUILD_STEP
    for after in block[block.index(statement) :] if statement in block else []:
        if isinstance(after, ast.Return) and (given := _status(reader, after.value)):
            code = given
    yield _made(module, call, "print", messages, hints, code)


def _status(reader: Reader, given: ast.expr | None) -> str | None:
    """The number that a function returns as the program's exit status."""
    said = reader.texts(given)
    return (
        said[0] if len(said) == 1 and said[0] not in ("0", "1", "2") and said[0].isdigit() else None
    )


def _raised(project: Project, module: Module, call: ast.Call) -> Iterator[Site]:
    """Errors of Python's own classes whose words reach the user: validators', and the disk's."""
    if not isinstance(call.func, ast.Name) or not call.args:
        return
    reader = Reader(project, module)
    if call.func.id == "ValueError" and _in_validator(module, call):
        messages = reader.texts(call.args[0])
        told = [message.partition("; choose ") for message in messages]
        hints = [f"choose {choice}" for _, _, choice in told if choice]
        yield _made(module, call, "value", [said for said, _, _ in told], hints, "2")
    elif call.func.id == "OSError" and module.name.startswith(("bench.job", "bench.host")):
        code = "1; 2 where the disk is full"
        # OSError(errno, "words") or OSError("words")
        words = call.args[min(len(call.args) - 1, 1)]
        yield _made(module, call, "disk", reader.texts(words), [], code)


def _row(project: Project, module: Module, made: ast.Dict) -> Iterator[Site]:
    """A backend's row that has a reason instead of a latency."""
    entries = {
        key.value: given
        for key, given in zip(made.keys, made.values, strict=True)
        if isinstance(key, ast.Constant)
    }
    if {"status", "reason"} <= entries.keys():
        texts = Reader(project, module).texts(entries["reason"])
        code = "1; 2 where no backend can do it"
        yield _made(module, made, "row", texts or ["‹reason›"], [], code)


def _made(
    module: Module,
    node: ast.AST,
    kind: str,
    messages: list[str],
    hints: list[str],
    code: str,
    about: str = "",
) -> Site:
    around = list(module.functions_around(node))
    name = around[0].name if around else ""
    return Site(
        module.name,
        name,
        kind,
        tuple(messages),
        tuple(dict.fromkeys(hints)),
        code,
        about,
        (ast.get_docstring(around[0]) or "").partition("\n")[0] if around else "",
    )


def _in_validator(module: Module, node: ast.AST) -> bool:
    return any(
        "validator" in ast.dump(decorator)
        for function in module.functions_around(node)
        for decorator in function.decorator_list
    )


def _is_definition(module: Module, node: ast.AST, full: str) -> bool:
    """Whether this is how ``note`` itself makes a finding, and the guard an exit."""
    inside = [f"{module.name}.{one.name}" for one in module.functions_around(node)]
    return full == "bench.host.doctor.finding.Finding" and any(
        one in OTHERS or one.endswith("finding.ok") for one in inside
    )


def _own_form(full: str, module: Module, node: ast.ClassDef) -> Form | None:
    """The form of a class that sets ``self.hint`` itself, or is a fault without one."""
    init = next(
        (one for one in node.body if isinstance(one, Function) and one.name == "__init__"), None
    )
    keeps_hint = init is not None and "attr='hint', ctx=Store()" in ast.dump(init)
    plain = init is None and node.name == "Fault" and _bases(node) == ["Exception"]
    if not (keeps_hint or plain):
        return None
    names = [one.arg for one in init.args.args][1:] if init is not None else []
    place = names.index("hint") if "hint" in names else -1
    code = str(_exit_code(node) or (2 if module.name.startswith("bench.host") else BUILD_STEP))
    kind = "step" if module.name.startswith("bench.build") else "error"
    return Form(kind, code, hint=(place, "hint"))


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _inherited(base: Form, node: ast.ClassDef) -> Form:
    code = _exit_code(node)
    return Form(base.kind, str(code) if code else base.code, base.message, base.hint)


def _exit_code(node: ast.ClassDef) -> int | None:
    for one in node.body:
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant):
            names = [target.id for target in one.targets if isinstance(target, ast.Name)]
            if names == ["exit_code"] and isinstance(one.value.value, int):
                return one.value.value
    return None
