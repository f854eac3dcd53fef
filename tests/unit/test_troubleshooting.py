"""docs/troubleshooting.md: made from the code, and nothing that the code can say is left out."""

# ruff: noqa: RUF001 -- its marks of a placeholder are meant

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.host.troubleshooting import page, scripts
from bench.host.troubleshooting.__main__ import PATH, ROOT, advice, text
from bench.host.troubleshooting.areas import AREAS, area_of
from bench.host.troubleshooting.sites import Site

FAMILY = re.compile(r"(?:\w+\.)?(?:UsageFault|JobFailed|BenchError)\(")
PLANTED = """
from bench.errors import JobFailed, UsageFault

_WHERE = "--out DIR"


def refuse(path, why, full):
    if full:
        raise UsageFault(f"{path} is full: {why}", hint=f"name another: {_WHERE}")
    return _late("too late" if path else "too early")


def _late(when):
    problem = f"it is {when}"
    return JobFailed(problem)
"""


@pytest.fixture(scope="module")
def found() -> list[Site]:
    return page.found(ROOT)


@pytest.fixture(scope="module")
def made() -> str:
    return text()


def planted(root: Path, code: str, where: str = "bench/host/planted.py") -> list[Site]:
    """What is found in a small project with one module beside the family's own."""
    for name, content in {
        "bench/errors.py": (ROOT / "bench/errors.py").read_text(),
        where: code,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return page.found(root)


def constructions(path: Path) -> int:
    """Calls of the family's three classes by their names alone, whatever the reader thinks."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return sum(FAMILY.fullmatch(ast.unparse(call.func) + "(") is not None for call in calls)


def test_the_page_is_that_of_the_code(made: str) -> None:
    # Compared before pytest sees it: it would take minutes over two such texts.
    same = PATH.read_text(encoding="utf-8") == made
    assert same, "run: python -m bench.host.troubleshooting"


def test_every_construction_of_the_family_is_found(found: list[Site]) -> None:
    listed = Counter(site.module for site in found if site.kind == "error")
    paths = [path for folder in ("bench", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    counted = 0
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        number = constructions(path)
        # Others of kind "error" in a module are those of a class of its own, as in bench.host.venv.
        assert listed[module] >= number, f"{module}: {number} made, {listed[module]} found"
        counted += number
    assert counted > 250


def test_every_fault_of_a_build_step_is_found(found: list[Site]) -> None:
    listed = Counter(site.module for site in found if site.kind in ("step", "error"))
    counted = 0
    for path in (ROOT / "bench" / "build").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        calls = re.findall(r"(?<![\w.])(?:Fault|Passing|Refused|_Damaged)\(", path.read_text())
        classes = re.findall(r"^class (?:Fault|Passing|Refused|_Damaged)\(", path.read_text(), re.M)
        assert listed[module] >= len(calls) - len(classes), module
        counted += len(calls) - len(classes)
    assert counted > 50


def test_every_finding_and_every_rule_is_found(found: list[Site]) -> None:
    for name, kind, room, least in (
        ("note", "finding", "doctor", 30),
        ("Broken", "rule", "toolchain", 15),
    ):
        listed = Counter(site.module for site in found if site.kind == kind)
        counted = 0
        for path in (ROOT / "bench" / "host" / room).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.walk(ast.parse(path.read_text()))
            number = sum(
                isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == name
                for one in tree
            )
            assert listed[module] >= number, module
            counted += number
        assert counted > least


def test_every_line_of_a_script_that_says_error_is_found() -> None:
    listed = Counter(site.module for site in scripts.sites(ROOT))
    for name in scripts.FILES:
        content = (ROOT / name).read_text()
        for passed_on in scripts.PASSED_ON:
            content = content.replace(passed_on, "")
        said = len(re.findall(r"error: ", content))
        # usage_fault hands its message to fail, and both are defined in the same file.
        said += len(re.findall(r'\b(?:fail|usage_fault) "(?!\$1")', content))
        assert listed[name] == said, name


def test_every_place_is_on_the_page(found: list[Site], made: str) -> None:
    grouped = page.entries(found)
    placed = {id(site) for of in grouped.values() for one in of for site in one.sites}
    assert len(placed) == len(found)
    plain = made.replace("`", "")
    texts = [one.text.replace("`", "") for of in grouped.values() for one in of]
    assert [text for text in texts if text not in plain] == []


def test_a_new_error_shows_up_with_its_hint_and_its_status(tmp_path: Path) -> None:
    sites = {site.messages: site for site in planted(tmp_path, PLANTED)}
    full = sites[("‹path› is full: ‹why›",)]
    assert (full.hints, full.code) == (("name another: --out DIR",), "2")
    late = sites[("it is too late", "it is too early")]
    assert (late.hints, late.code, late.function) == ((), "1", "_late")
    assert "`‹path› is full: ‹why›`" in page.text(tmp_path, {})


def test_a_new_class_of_the_family_is_one_of_it(tmp_path: Path) -> None:
    code = (
        "from bench import errors\n"
        "class TooHot(errors.JobFailed):\n    exit_code = 3\n"
        "class MuchTooHot(TooHot): ...\n"
        "def heat():\n    raise MuchTooHot('it burns', hint='let it cool')\n"
    )
    (only,) = (site for site in planted(tmp_path, code) if site.module == "bench.host.planted")
    assert (only.messages, only.hints, only.code) == (("it burns",), ("let it cool",), "3")


def test_a_fault_of_a_new_build_step_is_found(tmp_path: Path) -> None:
    code = (
        "class Fault(Exception):\n"
        "    def __init__(self, message: str, hint: str) -> None:\n"
        "        super().__init__(message)\n        self.hint = hint\n"
        "def pack(size):\n    raise Fault(f'{size} is too large', 'pack less')\n"
    )
    (only,) = (
        site for site in planted(tmp_path, code, "bench/build/new.py") if site.kind == "step"
    )
    assert (only.messages, only.hints) == (("‹size› is too large",), ("pack less",))
    assert only.code.startswith("1, of a step")


def test_what_cannot_be_read_is_listed_all_the_same(tmp_path: Path) -> None:
    code = (
        "from bench.errors import UsageFault\n"
        "def again(error):\n"
        '    """Told in other words."""\n'
        "    raise UsageFault(error.message)\n"
    )
    planted(tmp_path, code)
    listed = page.text(tmp_path, {})
    assert "`‹reason›` of `bench.host.planted`, `again` (Told in other words)" in listed


def test_anchors_are_unique_and_of_the_words_alone(made: str, found: list[Site]) -> None:
    anchors = re.findall(r'<a id="([^"]+)">', made)
    assert len(anchors) > 300
    repeated = [anchor for anchor, times in Counter(anchors).items() if times > 1]
    assert not repeated
    headings = {re.sub(r"[^a-z0-9]+", "-", area.title.lower()).strip("-") for area in AREAS}
    assert not headings & set(anchors)
    # Where a place moves to the end of its module, no anchor changes.
    forwards, backwards = page.entries(found), page.entries(reversed(found))
    assert page.anchors(forwards) == page.anchors(backwards)


def test_advice_is_for_errors_that_there_are(found: list[Site], made: str) -> None:
    known = {one.text for of in page.entries(found).values() for one in of}
    assert advice().keys() <= known
    assert [said for said in advice().values() if said not in made] == []


def test_every_prefix_of_an_area_is_some_module_or_script(found: list[Site]) -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("bench", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    for area in AREAS:
        for prefix in area.prefixes:
            there = (ROOT / prefix).exists() or (ROOT / f"{prefix}.py").exists()
            assert there or any(one == prefix or one.startswith(f"{prefix}.") for one in modules), (
                prefix
            )
    for site in found:
        assert area_of(site.module) in AREAS


def test_messages_that_users_search_for_are_there(made: str) -> None:
    wanted = (
        "the engine has no GPU to give",
        "no Docker engine answers",
        "Unsupported gpu architecture 'compute_‹arch›'",
        "could not select device driver",
        "outputs disagree with the float64 reference",
        "driver ‹driver› with CUDA ‹cuda›: it needs driver ‹driver oldest› or newer",
        "out of memory with ‹count› compilers at once",
        "docker/engine.sh ‹what› needs root",
    )
    assert [words for words in wanted if words not in made] == []


def test_no_entry_is_an_expression_of_python(made: str) -> None:
    assert [line for line in made.splitlines() if re.search(r"‹[^›]*[(\[{]", line)] == []
