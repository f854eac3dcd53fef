"""The committed record of a run, repeated in its very image on whatever machine this is.

On a machine that has nothing of ours, as CI's, this shows what reproducible means here: the digest
in docs/verified/rerun.record.json comes out of the record's commit again, and so does its parity.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import image, runs
from bench.record import ImageRef, RunRecord
from tests.conftest import ROOT, cannot_run
from tests.docker.test_supply_rerun import invoke

if TYPE_CHECKING:
    from docker import DockerClient

RECORD = ROOT / "docs" / "verified" / "rerun.record.json"


@pytest.fixture
def committed(
    client: DockerClient, base_ref: str, built_image: image.Image
) -> Iterator[tuple[RunRecord, ImageRef, str]]:
    """The record, its image, and how that comes about here: CI's engine has the base only.

    ``built_image`` comes first for its build cache only: most layers are the same.
    """
    from docker.errors import ImageNotFound

    record = runs.read_record(RECORD)
    wanted, environment = record.image, record.environment
    assert wanted is not None and environment is not None and environment.git_commit is not None
    has = ["git", "-C", str(ROOT), "cat-file", "-e", f"{environment.git_commit}^{{commit}}"]
    if subprocess.run(has, capture_output=True).returncode != 0:
        cannot_run(f"this clone has not the record's commit {environment.git_commit}")
    base = str(client.images.get(base_ref).id)
    if base != wanted.labels[f"{image.LABELS}.base-id"]:
        # Debian's mirror moved on; docs/verified/rerun.md says how the record is renewed.
        cannot_run(f"the base image here is {base}, which is not the one of {RECORD.name}")
    here = any(wanted.tag in one.tags for one in client.images.list())
    yield record, wanted, "present" if here else "built again"
    if not here:
        # Not there where the rebuild failed, and with it the test.
        with contextlib.suppress(ImageNotFound):
            client.images.remove(wanted.tag, force=True)


def test_the_committed_record_is_repeated_in_its_very_image(
    committed: tuple[RunRecord, ImageRef, str], tmp_path: Path
) -> None:
    record, wanted, how = committed
    done = invoke("rerun", str(RECORD), "--json", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["image"]["same"] is True and said["image"]["how"] == how
    assert said["image"]["id"] == wanted.id
    assert [row["backend"] for row in said["parity"]] == list(record.spec.backends)
    assert all(row["kept"] and row["new"]["passed"] for row in said["parity"])
    assert {row["backend"] for row in said["timings"]["rows"]} == set(record.spec.backends)
