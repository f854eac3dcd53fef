"""docs/concepts.md: every line of Python on it runs, and it has what it promises."""

from __future__ import annotations

import codeop
import re

import pytest
import torch

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "concepts.md"
TEXT = PAGE.read_text(encoding="utf-8")

# What a person must find there, and words without which it is not explained.
TOPICS = {
    "tokenizer levels": ("characters", "byte-level bpe", "words"),
    "blocks and batches": ("block", "batch", "target"),
    "the mask": ("mask", "softmax", "later"),
    "encoder and decoder": ("bert", "gpt", "what one-way attention cannot see"),
    "residual blocks": ("adds", "gradient"),
    "sampling with multinomial": ("temperature", "greedy", "seed", "torch.multinomial"),
    "answering is continuing a sequence": ("question", "prompt"),
    "loss falls linearly while compute grows exponentially": ("compute", "power law"),
    "when to fine-tune": ("--init", "leave it when"),
    "why inference needs no fine-tuning": ("weights", "prompt"),
}


def blocks(page: str) -> list[tuple[int, str]]:
    """The Python blocks of a page, each with how many lines stand before it."""
    found = re.finditer(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [(page[: match.start(1)].count("\n"), match.group(1)) for match in found]


def sections(page: str) -> dict[str, str]:
    """Heading of the second level, in small letters, to what stands under it."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(map(str.lower, parts[1::2]), parts[2::2], strict=True))


def run(page: str, name: str) -> None:
    """Execute the blocks in order in one namespace; an error tells its line of the page."""
    namespace: dict[str, object] = {"__name__": "concepts"}
    for lines_before, code in blocks(page):
        exec(compile("\n" * lines_before + code, name, "exec"), namespace)


def test_every_block_runs() -> None:
    assert len(blocks(TEXT)) >= len(TOPICS)
    with torch.random.fork_rng():  # a block may seed the generator that all tests share
        run(TEXT, str(PAGE))


def test_every_fence_that_opens_python_is_seen() -> None:
    assert len(re.findall(r"^\s*(```|~~~)+\s*(python|py)", TEXT, re.MULTILINE)) == len(blocks(TEXT))


def test_every_block_claims_something() -> None:
    for lines_before, code in blocks(TEXT):
        # A block that only defines or only prints would run whatever it did.
        assert re.search(r"^(assert |torch\.testing\.)", code, re.MULTILINE), lines_before + 1


def test_every_block_can_be_pasted_into_python() -> None:
    # An interpreter takes a blank line for the end of a function, and wants one after it.
    for lines_before, code in blocks(TEXT):
        typed: list[str] = []
        for number, line in enumerate(code.splitlines(), start=lines_before + 1):
            typed.append(line)
            try:
                complete = codeop.compile_command("\n".join(typed), symbol="single") is not None
            except SyntaxError as error:
                pytest.fail(f"{PAGE.name}, line {number}: {error}")
            if complete:
                typed.clear()
        left = "\n".join(typed)
        assert not left or codeop.compile_command(left + "\n", symbol="single"), lines_before


def test_a_false_claim_is_noticed_with_its_line() -> None:
    page = "One\n\n```python\nx = 1\n```\n\nTwo\n\n```python\n\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as error:
        run(page, "page.md")
    assert error.traceback[-1].lineno == 10  # from 0


@pytest.mark.parametrize("topic", TOPICS)
def test_the_page_explains(topic: str) -> None:
    matching = [name for name in sections(TEXT) if topic in name]
    assert len(matching) == 1, f"no section on {topic}: {list(sections(TEXT))}"
    section = sections(TEXT)[matching[0]]
    assert blocks(section), f"nothing in '{matching[0]}' runs"
    prose = re.sub(r"^```python\n.*?^```$", "", section, flags=re.DOTALL | re.MULTILINE)
    for word in TOPICS[topic]:
        assert word in " ".join(prose.lower().split()), f"'{matching[0]}' does not explain: {word}"
