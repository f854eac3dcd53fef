"""The pages in docs/ and the README: verbs, options, targets and links that they name exist."""

# ruff: noqa: RUF001 -- its marks of a placeholder are meant

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from invoke import Collection
from invoke.parser import ParserContext

import tasks
from bench.host.troubleshooting import page
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/verified/*.md")])
WSL2 = ROOT / "docs" / "wsl2.md"
GENERATED = ROOT / "docs" / "troubleshooting.md"
# Given in the place of a run's name, and understood there.
NAMED_SO = {("report", "--all")}
# What may stand behind `invoke` and is no verb.
NO_VERB = {"VERB", "…", "--list", "--help", "--debug", "--version"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def contexts() -> dict[str, ParserContext]:
    collection = Collection.from_module(tasks)
    return {context.name: context for context in collection.to_contexts() if context.name}


@cache
def targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def read(path: Path) -> str:
    """A page; of the generated one its hints, some of which begin with "make" in a sentence."""
    text = path.read_text(encoding="utf-8")
    if path != GENERATED:
        return text
    hints = [line for line in text.splitlines() if line.startswith("- hint: ")]
    return "\n".join(re.sub(r"`make (?:the|an?|room|sure|it)\b[^`]*`", "", hint) for hint in hints)


def code(text: str) -> Iterator[str]:
    """Lines of code blocks, indented or fenced, and inline code, one command each."""
    fenced = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1", re.DOTALL | re.MULTILINE)
    for block in fenced.finditer(text):
        yield from re.sub(r"\\\n\s*", " ", block[2]).splitlines()
    rest = fenced.sub("", text)
    yield from re.findall(r"^ {4}(\S.*)$", rest, re.MULTILINE)
    prose = re.sub(r"^ {4}\S.*$", "", rest, flags=re.MULTILINE)
    for quoted in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        yield " ".join(quoted.split())


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The words after ``program``, for each command of a page that runs it by that name."""
    starts = rf"^(?:[A-Z_]+=\S+ +)*(?:sudo +)?(?:\S*/)?{program} +(.*)$"
    for line in code(text):
        for one in re.split(r" && | \|\|? |; ", line.split("  #")[0].removeprefix("$ ")):
            if found := re.match(starts, one.strip()):
                try:
                    yield shlex.split(found[1], comments=True)
                except ValueError:  # a quotation mark of prose
                    yield found[1].split()


def invoked(text: str) -> Iterator[tuple[str, list[str]]]:
    """(verb, options) of every ``invoke …``."""
    for words in commands(text, "invoke"):
        names = [word.rstrip(",:.") for word in words]
        while names and names[0] == "--debug":
            names = names[1:]
        if names and names[0] not in NO_VERB:
            # A word with spaces is an option's value, which may have options of its own.
            yield names[0], [word for word in names[1:] if re.match(r"--\S+$", word)]


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {anchor(one) for one in headings} | set(re.findall(r'<a id="([^"]+)"', text))


def links(text: str) -> list[str]:
    """Targets of links that lead to no other site."""
    text = re.sub(r"^```.*?^```|^ {4}.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"``.+?``|`[^`]*`(?!\])", "", text)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [one for one in found if not re.match("[a-z]+:", one)]


def section_of(text: str, heading: str) -> str:
    return text.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_verb_and_option_on_a_page_exists(path: Path) -> None:
    for verb, options in invoked(read(path)):
        if verb.isupper() or "‹" in verb:  # a placeholder
            continue
        assert verb in contexts(), f"invoke {verb}"
        known = {*contexts()[verb].flags, *contexts()[verb].inverse_flags}  # --no-operators, too
        for option in options:
            name = option.split("=")[0]
            told = name in known or name == "--help" or (verb, name) in NAMED_SO
            assert told, f"invoke {verb} {option}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_target_of_make_on_a_page_exists(path: Path) -> None:
    for words in commands(read(path), "make"):
        named = [word.rstrip(",:.") for word in words if not re.match("[A-Z_]+=|-", word)]
        for target in named[:1]:
            assert target in targets() or target.isupper(), f"make {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_on_a_page_leads_somewhere(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        file, _, fragment = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), link
        if fragment and target.suffix == ".md":
            assert fragment in anchors(target), link


def test_the_reader_of_pages_finds_what_it_looks_for() -> None:
    text = (
        "Run `invoke bench --gpu` or:\n\n"
        "    sudo .venv/bin/invoke base-image && make bench ARGS='-x'\n"
        "    CC=gcc invoke doctor --json   # why\n\n"
        "```\n$ invoke train \\\n    --steps 5\n```\n\n[here](a.md#b) and [there](https://x.example)\n"
    )
    assert sorted(invoked(text)) == [
        ("base-image", []),
        ("bench", ["--gpu"]),
        ("doctor", ["--json"]),
        ("train", ["--steps"]),
    ]
    assert list(commands(text, "make")) == [["bench", "ARGS=-x"]]
    assert links(text) == ["a.md#b"]


def test_a_verb_an_option_and_a_link_that_are_not_there_are_noticed() -> None:
    assert "benhc" not in contexts()
    assert "--gpus" not in contexts()["bench"].flags
    assert "--gpu" in contexts()["bench"].flags
    assert {"bench", "setup", "engine-down"} <= targets()


# --- docs/wsl2.md --------------------------------------------------------------------------------

MESSAGES = (
    'could not select device driver "" with capabilities: [[gpu]]',
    "nvcc fatal : Unsupported gpu architecture 'compute_86'",
    "libcuda.so.1: cannot open shared object file",
    "libcuda.so not found",
    "is not a symbolic link",
    "nvidia-smi: command not found",
    "Failed to initialize NVML",
    "CUDA driver version is insufficient",
    "git clone is slow",
    "3rdparty is empty",
    "CMake 3.24 or higher is required",
    "root-owned files in results/",
    "docker.sock",
    "Clock skew",
    "Killed signal terminated program cc1plus",
    "no space left on device",
    "systemd",
    "'buildx' is not a docker command",
)


def test_the_page_on_wsl2_has_every_message_that_people_search_for() -> None:
    catalogue = section_of(WSL2.read_text(encoding="utf-8"), "## When it fails")
    for message in MESSAGES:
        assert message in " ".join(catalogue.split()), message


def test_the_page_on_wsl2_says_first_that_it_was_not_run() -> None:
    beginning = WSL2.read_text(encoding="utf-8")[:300]
    assert "Not run on Windows here" in beginning


def test_what_the_page_on_wsl2_quotes_is_said_by_the_program() -> None:
    said = "\n".join(
        text for site in page.found(ROOT) for text in (*site.messages, *site.hints, site.about)
    )
    said += GENERATED.read_text(encoding="utf-8").replace("\\|", "|")
    catalogue = section_of(WSL2.read_text(encoding="utf-8"), "## When it fails")
    quoting = [
        line
        for line in catalogue.splitlines()
        if re.match("(- )?(Doctor|Solver|The build): ", line)
    ]
    assert len(quoting) > 15
    for line in quoting:
        quotes = re.findall(r"`` (.+?) ``|(?<!`)`([^`]+)`(?!`)", line)
        assert quotes, line
        assert [long or short for long, short in quotes if (long or short) not in said] == []
