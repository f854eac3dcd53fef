"""``python -m bench.host.troubleshooting``: docs/troubleshooting.md, made from the code."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.host.troubleshooting import page

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[3]
PATH = ROOT / "docs" / "troubleshooting.md"
ADVICE = Path(__file__).with_name("advice.toml")


def advice() -> dict[str, str]:
    """What was written by hand, by the message that it belongs to."""
    with ADVICE.open("rb") as file:
        return {one["message"]: " ".join(one["advice"].split()) for one in tomllib.load(file)["on"]}


def text() -> str:
    """The page as it ought to be."""
    return page.text(ROOT, advice())


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
