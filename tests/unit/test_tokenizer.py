"""GPT-2's tokenizer gives the published encodings, from either kind of file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, processors

from bench import checkpoint
from bench.catalog import GPTConfig
from bench.errors import UsageFault
from bench.job import tokenizer
from bench.job.text import CharTokenizer
from bench.job.tokenizer import Tokenizer
from tests.unit import vocabulary

# As OpenAI's own encoder and those made after it give them.
PUBLISHED = {
    "hello world": [31373, 995],
    "Hello, I'm a language model,": [15496, 11, 314, 1101, 257, 3303, 2746, 11],
    "Hello, world!": [15496, 11, 995, 0],
    "This is some text": [1212, 318, 617, 2420],
    "indivisible": [521, 452, 12843],
    "hello 👋 world 🌍": [31373, 50169, 233, 995, 12520, 234, 235],
    "\n": [198],
    " ": [220],
    "": [],
    "<|endoftext|>": [50256],
    "one<|endoftext|>two": [505, 50256, 11545],
}


@pytest.fixture(scope="session")
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's vocab.json and merges.txt, kept between runs in pytest's cache."""
    cache = getattr(request.config, "cache", None)  # pytest can be run without one
    directory = cache.mkdir("gpt2-vocabulary") if cache else tmp_path_factory.mktemp("vocabulary")
    return vocabulary.fetched(directory)


@pytest.fixture(scope="session")
def gpt2(published: Path) -> Tokenizer:
    return tokenizer.load(published)


@pytest.fixture
def files(published: Path, tmp_path: Path) -> Path:
    """A copy to harm."""
    for name in vocabulary.FILES:
        (tmp_path / name).write_bytes((published / name).read_bytes())
    return tmp_path


def refused(directory: Path, *words: str) -> UsageFault:
    with pytest.raises(UsageFault) as caught:
        tokenizer.load(directory)
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("text", PUBLISHED)
def test_known_strings_have_the_published_encoding(gpt2: Tokenizer, text: str) -> None:
    assert gpt2.encode(text) == PUBLISHED[text]
    assert gpt2.decode(PUBLISHED[text]) == text


def test_the_vocabulary_is_gpt2s(gpt2: Tokenizer) -> None:
    assert gpt2.vocab_size == GPTConfig(1, 1, 1).vocab_size == 50257


def test_any_text_comes_back(gpt2: Tokenizer) -> None:
    @given(st.text())
    def there_and_back(text: str) -> None:
        ids = gpt2.encode(text)
        assert all(0 <= one < gpt2.vocab_size for one in ids)
        assert gpt2.decode(ids) == text

    there_and_back()


def test_any_tokens_are_some_text(gpt2: Tokenizer) -> None:
    """A model may say what is no UTF-8; where it is, the tokens' text has the same letters."""

    @given(st.lists(st.integers(0, 50256), max_size=20))
    def some_text(ids: list[int]) -> None:
        text = gpt2.decode(ids)
        if "\N{REPLACEMENT CHARACTER}" not in text:
            assert gpt2.decode(gpt2.encode(text)) == text

    some_text()
    assert gpt2.decode([50169]) == " \N{REPLACEMENT CHARACTER}"


def test_a_tokenizer_json_gives_the_same(gpt2: Tokenizer, files: Path) -> None:
    """And what it would add, cut or fill up is left out."""
    inner = gpt2._inner  # type: ignore[attr-defined]
    whole = tokenizers.Tokenizer.from_str(inner.to_str())
    end = ("<|endoftext|>", 50256)
    whole.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[end]
    )
    whole.enable_truncation(3)
    whole.enable_padding(length=16, pad_id=50256, pad_token="<|endoftext|>")
    for name in vocabulary.FILES:
        (files / name).unlink()
    whole.save(str(files / "tokenizer.json"))
    assert whole.encode("hello world").ids != PUBLISHED["hello world"]
    loaded = tokenizer.load(files)
    assert loaded.vocab_size == gpt2.vocab_size
    for text, ids in PUBLISHED.items():
        assert loaded.encode(text) == ids
        assert loaded.decode(ids) == text


def test_characters_come_first(files: Path) -> None:
    CharTokenizer.from_text("hello world").save(files)
    found = tokenizer.load(files)
    assert found.vocab_size == 8
    assert found.decode(found.encode("hero")) == "hero"


@pytest.mark.parametrize("ids", [[50257], [-1], [0, 10**12]])
def test_numbers_that_are_no_tokens_are_named(gpt2: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(UsageFault, match=f"token {ids[-1]} at position {len(ids) - 1} is not in"):
        gpt2.decode(ids)


def test_half_a_character_is_named(gpt2: Tokenizer) -> None:
    with pytest.raises(UsageFault, match=r"no UTF-8: '\\ud83d' at position 3"):
        gpt2.encode("abc\ud83d")


def test_none_is_said(tmp_path: Path) -> None:
    assert "vocab.json and merges.txt" in str(refused(tmp_path, "has no tokenizer").hint)


@pytest.mark.parametrize("name", vocabulary.FILES)
def test_half_of_a_pair_is_named(files: Path, name: str) -> None:
    (files / name).unlink()
    refused(files, f"{name} is missing")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b""),
        ("vocab.json", b"[1]"),
        ("vocab.json", b'{"a": "b"}'),
        ("vocab.json", b"\xff\xfe"),
        ("vocab.json", b'{"a": 0}'),  # the merges speak of other tokens
        ("vocab.json", b'{"a": -1}'),
        ("merges.txt", b"no such tokens at all"),
        ("merges.txt", b"\xff\xfe\x00"),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Nonsense"}}'),
        ("tokenizer.json", b"[" * 100_000),
    ],
)
def test_damaged_files_are_refused(files: Path, name: str, content: bytes) -> None:
    (files / name).write_bytes(content)
    refused(files, "is no tokenizer that can be read")


def test_a_file_that_makes_the_library_panic_is_refused(files: Path) -> None:
    """A prefix longer than a merge's second half: the library slices past its end."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    model |= {"continuing_subword_prefix": "longer"}
    (files / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    refused(files, "is no tokenizer that can be read")


def test_a_text_beyond_the_files_tokens_is_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "gone"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    found = tokenizer.load(tmp_path)
    assert found.encode("a") == [0]
    with pytest.raises(UsageFault, match="cannot tell the text in tokens"):
        found.encode("b")


def test_a_vocabulary_that_loses_bytes_is_refused(files: Path) -> None:
    (files / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (files / "merges.txt").write_text("#version: 0.2\na b\n")
    refused(files, "has no token for 254 of the 256 bytes")


def test_a_tokenizer_of_another_model_is_refused(files: Path) -> None:
    config = checkpoint.config_of(GPTConfig(1, 1, 1, vocab_size=50256))
    (files / "config.json").write_text(json.dumps(config))
    refused(files, "the tokenizer has 50257 tokens", "vocab_size 50256")
    # More in the model than in the tokenizer: rounded up, as many are.
    (files / "config.json").write_text(json.dumps(config | {"vocab_size": 50304}))
    assert tokenizer.load(files).vocab_size == 50257


def test_a_bigram_has_a_tokenizer_too(tmp_path: Path) -> None:
    CharTokenizer.from_text("abc").save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bigram", "vocab_size": 3}')
    assert tokenizer.load(tmp_path).encode("cab") == [2, 0, 1]


@pytest.mark.parametrize("name", ["tokenizer.json", "vocabulary.json", "vocab.json"])
def test_no_link_leads_out(files: Path, name: str) -> None:
    (files / "inside").mkdir()
    (files / "outside.json").write_text("{}")
    os.symlink(files / "outside.json", files / "inside" / name)
    (files / "inside" / "merges.txt").write_text("")
    refused(files / "inside", "a link out of its directory")


def test_words_of_a_bert_are_read_too(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "play": 3, "##ing": 4}
    inner = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    inner.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.load(tmp_path).encode("playing") == [3, 4]
