"""Gates and settings shared by every test.

A marker routes a test, a probe gates it. With ``GPT_FRONTEND_GATES=closed`` (what CI sets) a test
that wants Docker or the assembler and cannot run fails instead of being skipped.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Inductor needs it, and it refuses to be imported after whatever imports distutils.
importlib.import_module("setuptools")

# Machines are shared and noisy: a slow example is no failure.
hypothesis.settings.register_profile("shared", deadline=None, print_blob=True)
hypothesis.settings.load_profile("shared")


def cannot_run(why: str) -> NoReturn:
    """End a test that its gate keeps out: a failure where gates are closed, else a skip."""
    if os.environ.get("GPT_FRONTEND_GATES") == "closed":
        pytest.fail(f"the gates are closed and this test cannot run: {why}")
    pytest.skip(why)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not _gpu():
        # CI has no GPU at all, so this gate never closes; docs/verified.md says what that leaves
        # unchecked.
        pytest.skip("no NVIDIA GPU answers nvidia-smi here")


def _gpu() -> bool:
    program = shutil.which("nvidia-smi")
    return program is not None and subprocess.run([program], capture_output=True).returncode == 0


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's artefact store; they share one of their own.

    And one cache of Inductor's, which a local run has to itself where none is named.
    """
    store = tmp_path_factory.getbasetemp() / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT_FRONTEND_STORE", str(store))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(store.with_name("torchinductor")))
        yield store
