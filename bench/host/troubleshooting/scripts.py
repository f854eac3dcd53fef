"""The errors of the shell scripts, the Makefile and the programs inside the Dockerfile."""

# ruff: noqa: RUF001, RUF002 -- its marks of a placeholder are meant
# Values stand in angle quotation marks, which no message has of its own.

from __future__ import annotations

import re
from pathlib import Path

from bench.host.troubleshooting.sites import Site

FILES = ("Makefile", "docker/Dockerfile", "docker/engine.sh", "docker/locks/update.sh")
# fail MESSAGE HINT [EXIT] and usage_fault MESSAGE, as docker/engine.sh defines them.
FAIL = re.compile(r'(?<!# )\bfail "((?:\\.|[^"\\])*)" +"((?:\\.|[^"\\])*)"(?: +(\d+))?')
USAGE = re.compile(r'\busage_fault "((?:\\.|[^"\\])*)"')
USAGE_HINT = "see docker/engine.sh --help"
ECHO = re.compile(r'echo "error: ((?:\\.|[^"\\])*)"')
ECHO_HINT = re.compile(r'echo "hint: ((?:\\.|[^"\\])*)"')
TRAP = re.compile(r'printf "error: ((?:\\.|[^"\\])*)\\n" "?(\$\w+)')
EXIT = re.compile(r'sys\.exit\(f"error: ((?:\\.|[^"\\])*)"\)')
# What only hands on the words of others: `fail` itself, and the installer's fault.
PASSED_ON = ("printf 'error: %s\\nhint: %s\\n'", 'f"error: {fault}"')


def sites(root: Path) -> list[Site]:
    """Every error that one of the scripts prints by itself."""
    found = []
    for name in FILES:
        path = root / name
        if path.is_file():
            found += _in_script(name, re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8")))
    return found


def _in_script(name: str, text: str) -> list[Site]:
    found = []

    def add(message: str, hints: tuple[str, ...], code: str) -> None:
        said = tuple(_plain(hint) for hint in hints)
        found.append(Site(name, "", "script", (_plain(message),), said, code))

    for one in FAIL.finditer(text):
        if one[1] != "$1":
            add(one[1], (one[2],), one[3] or "1")
    for one in USAGE.finditer(text):
        add(one[1], (USAGE_HINT,), "2")
    for one in TRAP.finditer(text):
        add(one[1].replace("%s", one[2]), (), "1")
    for one in ECHO.finditer(text):
        hint = ECHO_HINT.search(text, one.end())
        add(one[1], (hint[1],) if hint else (), "2")
    for one in EXIT.finditer(text):
        add(re.sub(r"\{(\w+)\}", r"$\1", one[1]), (), "1, and the image's build ends with it")
    return found


def _plain(text: str) -> str:
    """``$NAME``, ``${name[*]}`` and make's ``$(NAME)`` as ‹name›."""

    def value(found: re.Match[str]) -> str:
        name = re.sub(r"[^\w]", "", found[1] or found[2] or found[3])
        return {"1": "‹what›", "2": "‹log›"}.get(name, f"‹{name.lower().replace('_', ' ')}›")

    return re.sub(r"\$\{([^}]+)\}|\$\(([^)]+)\)|\$(\w+)", value, text).replace('\\"', '"')
