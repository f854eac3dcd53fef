"""Characters to tokens and back, and blocks of tokens to train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageFault
from bench.job import blocks, text
from bench.job.blocks import Blocks
from bench.job.text import CharTokenizer

TEXTS = st.text(min_size=1)  # of any characters, beyond 16 bits too


@given(TEXTS)
def test_what_is_encoded_is_decoded_to_the_same(words: str) -> None:
    tokenizer = CharTokenizer.from_text(words)
    assert tokenizer.decode(tokenizer.encode(words)) == words
    assert tokenizer.encode_array(words).tolist() == tokenizer.encode(words)
    assert list(tokenizer.characters) == sorted(set(words))


def test_tokens_are_places_among_the_sorted_characters() -> None:
    tokenizer = CharTokenizer.from_text("hello\n")
    assert tokenizer.characters == ("\n", "e", "h", "l", "o")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("hello") == [2, 1, 3, 3, 4]
    assert tokenizer.encode("") == []


@given(TEXTS, TEXTS)
def test_an_unknown_character_is_named_with_its_place(known: str, words: str) -> None:
    tokenizer = CharTokenizer.from_text(known)
    unknown = [place for place, character in enumerate(words) if character not in known]
    for encode in (tokenizer.encode, tokenizer.encode_array):
        if not unknown:
            encode(words)
            continue
        character = words[unknown[0]]
        with pytest.raises(UsageFault) as caught:
            encode(words)
        assert repr(character) in caught.value.message
        assert f"(U+{ord(character):04X}) at position {unknown[0]}" in caught.value.message


def test_half_a_character_is_an_unknown_one() -> None:
    tokenizer = CharTokenizer.from_text("abc")
    for encode in (tokenizer.encode, tokenizer.encode_array):
        with pytest.raises(UsageFault, match=r"U\+DC80\) at position 1"):
            encode("a\udc80")


def test_the_hint_shows_what_the_model_knows_shortly() -> None:
    with pytest.raises(UsageFault) as caught:
        CharTokenizer.from_text("abc").encode("d")
    assert caught.value.hint == "it knows 'abc'"
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))
    with pytest.raises(UsageFault) as caught:
        CharTokenizer.from_text(many).encode("d")
    assert str(caught.value.hint).endswith("' and 20 more")


@pytest.mark.parametrize("token", [-1, 3, 2**40])
def test_a_token_beyond_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(UsageFault, match=rf"token {token} at position 1 .* of 3 characters"):
        CharTokenizer.from_text("abc").decode([0, token])


@given(words=TEXTS)
def test_a_saved_vocabulary_is_loaded_as_it_was(
    words: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("vocabulary")
    tokenizer = CharTokenizer.from_text(words)
    tokenizer.save(directory)
    assert CharTokenizer.load(directory) == tokenizer


def test_the_file_is_the_one_that_is_documented(tmp_path: Path) -> None:
    CharTokenizer.from_text("ba\n").save(tmp_path)
    saved = json.loads((tmp_path / "vocabulary.json").read_text())
    assert saved == {"kind": "characters", "characters": ["\n", "a", "b"]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'"characters"',
        b'{"characters": ["a"]}',
        b'{"kind": "words", "characters": ["a"]}',
        b'{"kind": "characters", "characters": []}',
        b'{"kind": "characters", "characters": "abc"}',
        b'{"kind": "characters", "characters": ["a", 1]}',
        b'{"kind": "characters", "characters": ["ab"]}',
        b'{"kind": "characters", "characters": ["b", "a"]}',
        b'{"kind": "characters", "characters": ["a", "a"]}',
        b'{"kind": "characters", "characters": ' + b"[" * 100_000,
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocabulary.json").write_bytes(content)
    with pytest.raises(UsageFault, match="is no vocabulary"):
        CharTokenizer.load(tmp_path)


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"cannot read .*vocabulary\.json: No such file"):
        CharTokenizer.load(tmp_path)


def test_reading_keeps_line_ends_and_says_where_a_file_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("a\r\nb\rç\n".encode())
    assert text.read(path) == "a\r\nb\rç\n"
    path.write_bytes(b"ab\xffcd")
    with pytest.raises(UsageFault, match=r"not UTF-8: byte 0xff at position 2 \(invalid start"):
        text.read(path)
    path.write_bytes(b"")
    with pytest.raises(UsageFault, match="the text is empty"):
        text.read(path)
    with pytest.raises(UsageFault, match="the text is empty"):
        CharTokenizer.from_text("")
    with pytest.raises(UsageFault, match="cannot read the text: Is a directory"):
        text.read(tmp_path)


def test_the_smallest_type_that_holds_every_token() -> None:
    assert text.smallest_dtype(65) is np.uint16
    assert text.smallest_dtype(2**16) is np.uint16
    assert text.smallest_dtype(2**16 + 1) is np.uint32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nine_tenths_are_for_training() -> None:
    tokens = np.arange(105, dtype=np.uint16)
    split = Blocks.of(tokens, block_size=4)
    assert split.train.tolist() == list(range(94))
    assert split.val.tolist() == list(range(94, 105))


@given(length=st.integers(20, 200), block=st.integers(1, 12), seed=st.integers(0, 99))
def test_targets_are_the_tokens_one_further_in_the_same_split(
    length: int, block: int, seed: int
) -> None:
    tokens = np.arange(length, dtype=np.uint16)  # a token is its own place
    try:
        split = Blocks.of(tokens, block)
    except UsageFault:
        assert length - int(0.9 * length) <= block
        return
    border = int(0.9 * length)
    for name, first, end in (("train", 0, border), ("val", border, length)):
        x, y = split.batch(name, 5, generator(seed))  # type: ignore[arg-type]
        assert x.shape == y.shape == (5, block)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x, x[:, :1] + torch.arange(block))
        assert first <= int(x.min()) and int(y.max()) < end


def test_every_place_of_a_split_can_be_drawn() -> None:
    split = Blocks.of(np.arange(40, dtype=np.uint16), block_size=2)
    x, y = split.batch("val", 500, generator())
    assert set(x[:, 0].tolist()) == {36, 37}
    assert int(y.max()) == 39  # the last token is a target


def test_whole_gives_each_block_once_and_in_order() -> None:
    split = Blocks.of(np.arange(120, dtype=np.uint16), block_size=3)
    pairs = list(split.whole("val", 2))
    assert [x.shape[0] for x, _ in pairs] == [2, 1]
    assert torch.cat([x.flatten() for x, _ in pairs]).tolist() == list(range(108, 117))
    assert torch.cat([y.flatten() for _, y in pairs]).tolist() == list(range(109, 118))


def test_the_map_is_of_the_disk_and_gone_afterwards(tmp_path: Path) -> None:
    with blocks.mapped([1, 2, 65535], 2**16, tmp_path) as mapped:
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype == np.uint16
        assert mapped.tolist() == [1, 2, 65535]
        assert (tmp_path / "tokens.bin").stat().st_size == 6
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(RuntimeError, match="inside"),
        blocks.mapped([2**16], 2**16 + 1, tmp_path) as mapped,
    ):
        assert mapped.tolist() == [2**16]
        raise RuntimeError("inside")
    assert list(tmp_path.iterdir()) == []


def test_each_step_and_stream_has_a_seed_of_its_own() -> None:
    seeds = [
        blocks.seed_for(seed, stream, step)
        for seed in (0, 1)
        for stream in ("train", "dropout")
        for step in range(50)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, again = (blocks.generator_for(1, "train", 5) for _ in range(2))
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=again))
