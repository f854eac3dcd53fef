"""Every kind of job, by the ``kind`` in its spec.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from bench.generation import EvaluateSpec, GenerateSpec
from bench.record import JobSpec
from bench.training import TrainSpec
from bench.tuning import TuneSpec

AnySpec = JobSpec | TrainSpec | GenerateSpec | EvaluateSpec | TuneSpec

_READER: TypeAdapter[AnySpec] = TypeAdapter(Annotated[AnySpec, Field(discriminator="kind")])

# A line of a job's output that carries generated text: this word, then the text as JSON.
TEXT_LINE = "generated-text "


def text_of(line: str) -> str | None:
    """The generated text that a line of a job's output carries; None of any other line."""
    if not line.startswith(TEXT_LINE):
        return None
    try:
        text = json.loads(line.removeprefix(TEXT_LINE))
    except ValueError:  # a library's own words, or a line that two writers shared
        return None
    return text if isinstance(text, str) else None


def read(path: Path) -> AnySpec:
    """The spec in ``path``.

    Raises:
        pydantic.ValidationError: it is of no known kind, or not valid for its kind.
    """
    return _READER.validate_json(path.read_bytes())
