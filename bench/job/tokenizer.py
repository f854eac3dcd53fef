"""From text to token numbers and back: characters, or the byte-level BPE of a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from bench import checkpoint
from bench.errors import UsageFault
from bench.job.text import VOCABULARY_FILE as CHARACTERS
from bench.job.text import CharTokenizer

TOKENIZER = "tokenizer.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
END_OF_TEXT = "<|endoftext|>"

_BRING = f"bring {TOKENIZER}, or {VOCABULARY} and {MERGES}, beside the weights (docs/weights.md)"


class Tokenizer(Protocol):
    """What a model of text needs; token numbers run from 0 to ``vocab_size`` - 1."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. UsageFault where it cannot be told in tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens. UsageFault where a number is none of them."""


class BpeTokenizer:
    """A tokenizer of the library that defines the files. No token is added at either end."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # A file may ask to cut or fill every text to one length: not what a prompt wants.
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._known = frozenset(inner.get_vocab(with_added_tokens=True).values())
        self.vocab_size = max(self._known, default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """The tokens of a text.

        Raises:
            UsageFault: it holds a lone surrogate, half a character, which no bytes stand for; or
                the tokenizer's file lacks what the text needs.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageFault(
                f"the text has no UTF-8: {text[error.start]!a} at position {error.start}",
                hint="it is half of a pair; was the text cut or read in a wrong encoding?",
            ) from error
        with _told("the tokenizer cannot tell the text in tokens"):
            ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; bytes that make no whole character become U+FFFD.

        Raises:
            UsageFault: a number is no token.
        """
        for position, one in enumerate(ids):
            if one not in self._known:
                raise UsageFault(
                    f"token {one} at position {position} is not in the vocabulary of "
                    f"{self.vocab_size} tokens",
                    hint="are the tokenizer and the model of one checkpoint?",
                )
        text: str = self._inner.decode([int(one) for one in ids], skip_special_tokens=False)
        return text


def load(directory: Path) -> Tokenizer:
    """The tokenizer that lies in a checkpoint's directory.

    vocabulary.json (characters) comes first, then tokenizer.json, then vocab.json with merges.txt.

    Raises:
        UsageFault: there is none, it is damaged, or it has more tokens than the model.
    """
    found = _load(directory)
    # A model may have more, where its vocabulary was rounded up; fewer would crash in the middle.
    if (directory / checkpoint.CONFIG).exists() and checkpoint.model_type(directory) != "bigram":
        model = checkpoint.geometry(directory).vocab_size
        if found.vocab_size > model:
            raise UsageFault(
                f"{directory}: the tokenizer has {found.vocab_size} tokens, but config.json says "
                f"vocab_size {model}",
                hint="bring the tokenizer that belongs to these weights",
            )
    return found


def _load(directory: Path) -> Tokenizer:
    if (directory / CHARACTERS).exists():
        checkpoint.file_inside(directory, CHARACTERS)
        return CharTokenizer.load(directory)
    if (directory / TOKENIZER).exists():
        return BpeTokenizer(_from_file(checkpoint.file_inside(directory, TOKENIZER)))
    if (directory / VOCABULARY).exists() or (directory / MERGES).exists():
        return BpeTokenizer(
            _byte_level(
                checkpoint.file_inside(directory, VOCABULARY),
                checkpoint.file_inside(directory, MERGES),
            )
        )
    raise UsageFault(f"{directory} has no tokenizer", hint=_BRING)


def _from_file(path: Path) -> tokenizers.Tokenizer:
    with _told(f"{path} is no tokenizer that can be read"):
        return tokenizers.Tokenizer.from_file(str(path))


def _byte_level(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer: the text's bytes, split into words, merged by the table."""
    with _told(f"{vocabulary} with {MERGES} is no tokenizer that can be read"):
        bpe = models.BPE.from_file(str(vocabulary), str(merges))
    inner = tokenizers.Tokenizer(bpe)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    missing = [
        byte for byte in pre_tokenizers.ByteLevel.alphabet() if bpe.token_to_id(byte) is None
    ]
    if missing:
        raise UsageFault(
            f"{vocabulary} has no token for {len(missing)} of the 256 bytes, so texts would lose "
            "characters",
            hint="it is no byte-level BPE of GPT-2's kind, or damaged",
        )
    if bpe.token_to_id(END_OF_TEXT) is not None:
        inner.add_special_tokens([END_OF_TEXT])
    return inner


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell a failure of the library, which has no errors of its own, as a fault."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # where its Rust code panics, it is no Exception
        raise UsageFault(f"{what}: {checkpoint.brief(error)}", hint=_BRING) from error
