"""A state.json may be anyone's: what it says leads nowhere and reaches no terminal as written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.catalog import MODELS
from bench.errors import UsageFault
from bench.host import runs
from bench.training import PRESETS, State, TrainSpec, read_state
from tests.unit.training_runs import spec

ESC = "\x1b]0;owned\x07\x1b[2J\u202e"


def state(directory: Path, key: str, value: Any) -> Path:
    """A checkpoint's directory whose spec says ``value`` for ``key``."""
    kept = State(spec=spec(), step=4, model_sha256="0" * 64, optimizer_sha256="0" * 64)
    raw = kept.model_dump(mode="json")
    raw["spec"][key] = value
    (directory / "state.json").write_text(json.dumps(raw))
    return directory


def named(text: str) -> TrainSpec:
    """The spec of a training on a text that is called so."""
    return TrainSpec.model_validate(spec().model_dump() | {"text": text})


@pytest.mark.parametrize(
    "name",
    ["/../../x", "../x", "/etc", "a/b", "..", ".", "", "-rf", ".hidden", "a\n", f"a{ESC}", "a" * 65,
     "a\0b", "\N{SNOWMAN}"],
)  # fmt: skip
def test_a_model_whose_name_is_no_plain_word_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageFault, match=r"is damaged: spec\.model: ") as caught:
        read_state(state(tmp_path, "model", name))
    assert caught.value.message.isprintable()
    with pytest.raises(ValidationError):
        spec(model=name)


def test_every_name_that_the_host_gives_a_model_is_one(tmp_path: Path) -> None:
    for name in (*PRESETS, *MODELS):
        wanted = spec(model=name)
        assert read_state(state(tmp_path, "model", name)).spec == wanted
        made = runs.create(tmp_path / "results", wanted)
        assert made.path.parent == tmp_path / "results"
        assert f"-{name}-train-" in made.run_id


@pytest.mark.parametrize("text", [f"novel{ESC}.txt", "two\nlines", "caf\udce9.txt", "y" * 100_000])
def test_a_texts_name_is_made_inert(tmp_path: Path, text: str) -> None:
    """It is for people alone: a run on a file of such a name can be made, and goes on."""
    found = named(text)
    assert found.text.isprintable() and 0 < len(found.text) <= 1000
    assert found.text[:3] == text[:3]
    assert TrainSpec.model_validate_json(found.model_dump_json()) == found
    if "\udce9" not in text:  # which no JSON holds
        assert read_state(state(tmp_path, "text", text)).spec == found


def test_an_ordinary_texts_name_stays_as_it_is() -> None:
    for text in ("input.txt", "Les Misérables, tome I.txt", "https://example.com/a?b=c#d"):
        assert named(text).text == text


@pytest.mark.parametrize(
    ("key", "value"),
    [("preset", ESC), ("preset", "/../../x"), (ESC, 1), ("kind", ESC), ("dtype", ESC * 1000)],
)
def test_what_a_damaged_state_says_is_shown_without_control_characters(
    tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(UsageFault, match="is damaged: spec") as caught:
        read_state(state(tmp_path, key, value))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 3000


def test_an_unknown_preset_is_quoted_and_cut_short(tmp_path: Path) -> None:
    with pytest.raises(UsageFault) as caught:
        read_state(state(tmp_path, "preset", "z" * 100_000))
    assert "unknown preset 'zzz" in caught.value.message
    assert "choose one of: char-cpu" in caught.value.message
