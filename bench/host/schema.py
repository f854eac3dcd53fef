"""``python -m bench.host.schema``: docs/record.schema.json, made from the models."""

from __future__ import annotations

import json
from pathlib import Path

from bench.record import RunRecord

PATH = Path(__file__).resolve().parents[2] / "docs" / "record.schema.json"


def text() -> str:
    """The JSON Schema (draft 2020-12) of record.json."""
    schema = RunRecord.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
