"""`invoke rerun` for real: a run in the image that this project built, and the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.host import runs
from bench.host.engine.endpoint import Endpoint
from bench.host.image import Image
from tests.conftest import ROOT

NANO = ("--model", "gpt-nano", "--seq-len", "8", "--repeats", "10", "--backends", "torch-eager")


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def out(endpoint: Endpoint, built_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one run in a container is kept."""
    folder = tmp_path_factory.mktemp("runs")
    asked = ("--engine", "docker", "--image", built_image.tag, "--no-operators", *NANO)
    done = invoke("bench", *asked, "--out", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_is_repeated_in_its_very_image_with_the_same_parity(
    out: Path, built_image: Image
) -> None:
    first = next(iter(runs.listed(out)))
    done = invoke("rerun", str(first / runs.RECORD), "--json", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["image"]["same"] is True and said["image"]["how"] == "present"
    assert said["image"]["id"] == built_image.id
    (row,) = said["parity"]
    assert row["kept"] and row["base"]["passed"] and row["new"]["passed"]
    assert "image" not in {one["key"] for one in said["timings"]["differing"]}
    again = runs.read_record(runs.find(out, said["new"]) / runs.RECORD)
    assert again.image is not None and again.image.id == built_image.id
    assert again.spec == runs.read_record(first / runs.RECORD).spec


def test_an_image_that_nobody_can_bring_is_refused_and_nothing_runs(
    out: Path, built_image: Image, tmp_path: Path
) -> None:
    """The record of an image with the tag of one that is here: no other passes for it."""
    made = runs.read_record(next(iter(runs.listed(out))) / runs.RECORD)
    assert made.image is not None and made.environment is not None
    strange = {"id": f"sha256:{'0' * 64}", "digest": None}
    record = made.model_copy(
        update={
            "image": made.image.model_copy(update=strange),
            "environment": made.environment.model_copy(update={"git_commit": None}),
        }
    )
    path = tmp_path / "record.json"
    path.write_text(runs.to_json(record))
    done = invoke("rerun", str(path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    for words in ("the image cannot be had", built_image.id, "names no commit", "--allow image"):
        assert words in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "out").exists()
