"""Text to tokens at the level of characters: the smallest vocabulary there is, and no merges.

A text's distinct characters, sorted, are the vocabulary; a character's token is its place there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeGuard

import numpy as np

from bench.errors import UsageFault

VOCABULARY_FILE = "vocabulary.json"
KIND = "characters"
_BELONGS = "bring the vocabulary.json that `invoke train` wrote beside these very weights"


@dataclass(frozen=True)
class CharTokenizer:
    """Characters to tokens and back. ``characters`` are sorted and distinct."""

    characters: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The vocabulary of ``text``.

        Raises:
            UsageFault: the text is empty.
        """
        if not text:
            raise UsageFault("the text is empty", hint="name another: --text FILE")
        return cls(tuple(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.characters)

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {character: token for token, character in enumerate(self.characters)}

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, one a character.

        Raises:
            UsageFault: a character is not in the vocabulary; it is named with its place.
        """
        try:
            return [self._token_of[character] for character in text]
        except KeyError as error:
            unknown = str(error.args[0])
            raise self._unknown(unknown, text.index(unknown)) from None

    def encode_array(self, text: str) -> np.ndarray:
        """The same as an array (characters,) of uint16, or uint32 where those do not fit.

        Raises:
            UsageFault: as ``encode``.
        """
        # Surrogates pass: what cannot be encoded must be named as unknown, not end in a traceback.
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        known = np.array([ord(character) for character in self.characters], dtype="<u4")
        found = np.searchsorted(known, codes)
        # A code above the last one is sought past the end.
        missing = known[np.minimum(found, len(known) - 1)] != codes
        if missing.any():
            position = int(missing.argmax())
            raise self._unknown(text[position], position)
        return found.astype(smallest_dtype(self.vocab_size))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``.

        Raises:
            UsageFault: a token is not in the vocabulary.
        """
        for place, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise UsageFault(
                    f"token {token} at position {place} is not in the vocabulary of "
                    f"{self.vocab_size} characters",
                    hint=_BELONGS,
                )
        return "".join(self.characters[token] for token in ids)

    def to_json(self) -> str:
        """The content of ``vocabulary.json``."""
        return json.dumps({"kind": KIND, "characters": list(self.characters)}) + "\n"

    def save(self, directory: Path) -> None:
        """Write ``vocabulary.json`` into ``directory``."""
        (directory / VOCABULARY_FILE).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> CharTokenizer:
        """The vocabulary that lies in ``directory``.

        Raises:
            UsageFault: it is missing, or is not a list of sorted, distinct characters.
        """
        path = directory / VOCABULARY_FILE
        try:
            saved = json.loads(path.read_bytes())
            characters = saved["characters"] if saved["kind"] == KIND else None
        except OSError as error:
            raise UsageFault(f"cannot read {path}: {error.strerror}", hint=_BELONGS) from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageFault(f"{path} is no vocabulary: {error!r}", hint=_BELONGS) from error
        if not _is_vocabulary(characters):
            raise UsageFault(
                f'{path} is no vocabulary: "kind" must be "{KIND}" and "characters" a list of '
                "single characters, sorted and distinct",
                hint=_BELONGS,
            )
        return cls(tuple(characters))

    def _unknown(self, character: str, position: int) -> UsageFault:
        return UsageFault(
            f"the character {character!r} (U+{ord(character):04X}) at position {position} is not "
            f"among the {self.vocab_size} that the model knows",
            hint=f"it knows {_shown(self.characters)}",
        )


def read(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are.

    Raises:
        UsageFault: it cannot be read, is empty, or is not UTF-8 (with the place of the byte).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageFault(
            f"cannot read the text: {error.strerror}", hint="name another: --text FILE"
        ) from error
    return decoded(content)


def decoded(content: bytes) -> str:
    """The text that ``content`` holds as UTF-8.

    Raises:
        UsageFault: it is empty or not UTF-8.
    """
    if not content:
        raise UsageFault("the text is empty", hint="name another: --text FILE")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageFault(
            f"the text is not UTF-8: byte 0x{content[error.start]:02x} at position "
            f"{error.start} ({error.reason})",
            hint="convert it: iconv -f ITS_ENCODING -t UTF-8 FILE > NEW",
        ) from error


def smallest_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The unsigned type that tokens of such a vocabulary are kept in."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def _is_vocabulary(characters: object) -> TypeGuard[list[str]]:
    return (
        isinstance(characters, list)
        and bool(characters)
        and all(isinstance(one, str) and len(one) == 1 for one in characters)
        and characters == sorted(set(characters))
    )


def _shown(characters: Sequence[str], most: int = 80) -> str:
    text = "".join(characters[:most])
    more = f" and {len(characters) - most} more" if len(characters) > most else ""
    return f"{text!r}{more}"
