"""The loss curve: an SVG that is well-formed, says what it shows, and is the same each time."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from bench.host import curve
from bench.training import PRESETS, Point, Training

SVG = "{http://www.w3.org/2000/svg}"


def training(points: int = 3, **changes: Any) -> Training:
    curve_ = [
        Point(step=250 * n, train_loss=4.0 - n, val_loss=4.25 - n, lr=1e-3, elapsed_s=float(n))
        for n in range(points)
    ]
    return Training.model_validate(
        {
            "hyperparameters": PRESETS["char-cpu"],
            "preset": "char-cpu",
            "text": "https://example.com/texts/input.txt",
            "text_sha256": "0" * 64,
            "seed": 0,
            "parameters": 809_856,
            "vocab_size": 65,
            "train_tokens": 900,
            "val_tokens": 100,
            "steps_done": 250 * (points - 1),
            "stopped": "finished",
            "curve": curve_,
            "best_val_loss": curve_[-1].val_loss,
            "best_step": curve_[-1].step,
            "elapsed_s": 9.0,
            **changes,
        }
    )


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_it_has_a_title_axes_with_units_and_both_lines_named() -> None:
    shown = texts(curve.drawn(training()))
    assert "Loss of char-cpu on input.txt (809,856 parameters)" in shown
    assert "training step" in shown
    assert "cross-entropy loss (nats per token)" in shown
    assert {"training", "validation"} <= set(shown)


def test_a_reader_who_cannot_see_it_is_told_what_it_shows() -> None:
    root = ElementTree.fromstring(curve.drawn(training()))
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert len(list(root.iter(f"{SVG}title"))) == 1
    title, description = str(root.get("aria-labelledby")).split()
    assert named[title] == "Loss of char-cpu on input.txt (809,856 parameters)"
    assert named[description] == (
        "A line chart: cross-entropy loss in nats per token by training step, for the training "
        "and the validation split. At step 0 the training loss is 4.0000 and the validation loss "
        "4.2500. At step 500 they are 2.0000 and 2.2500. The lowest validation loss is 2.2500, "
        "at step 500."
    )


def test_why_it_ended_early_is_part_of_the_description() -> None:
    said = curve.described(training(stopped="interrupted", reason="stopped by SIGINT at step 7"))
    assert said.endswith("It ended early: stopped by SIGINT at step 7.")


def test_one_point_is_a_curve_too() -> None:
    assert "At step 0 the training loss" in curve.drawn(training(points=1))


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    curve.write(training(), tmp_path / "one.svg")
    curve.write(training(), tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert curve.drawn(training()) != curve.drawn(training(points=2))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b", "cost $5$ and $x^2$.txt"])
def test_a_texts_name_is_shown_as_it_is(name: str) -> None:
    svg = curve.drawn(training(text=name))
    last = name.rsplit("/", 1)[-1]
    assert any(last in shown for shown in texts(svg))
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))


def test_it_draws_every_point() -> None:
    root = ElementTree.fromstring(curve.drawn(training(points=5)))
    marked = [group for group in root.iter(f"{SVG}g") if len(list(group.findall(f"{SVG}use"))) == 5]
    assert len(marked) >= 2  # both lines' markers
