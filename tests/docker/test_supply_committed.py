"""The committed record of a run, repeated in its very image on whatever machine this is.

On a machine that has nothing of ours, as CI's, this shows what reproducible means here: the digest
in docs/verified/rerun.record.json comes out of the record's commit again, and so does its parity.
Debian moves on without asking: where it has published other packages since, the image cannot be had
again, and then this shows that `rerun` refuses to take another for it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import image, runs
from bench.host.lock import packages
from bench.record import ImageRef, RunRecord
from tests.conftest import ROOT, cannot_run
from tests.docker.test_supply_rerun import invoke

if TYPE_CHECKING:
    from docker import DockerClient

RECORD = ROOT / "docs" / "verified" / "rerun.record.json"
PACKAGES = RECORD.with_name("rerun.packages.txt")


@dataclass(frozen=True)
class Committed:
    """The record, its image, how that comes about here, and what Debian has changed since."""

    record: RunRecord
    image: ImageRef
    how: str
    moved: list[str]


@pytest.fixture
def committed(client: DockerClient, built_image: image.Image) -> Iterator[Committed]:
    """CI's engine has the base only, and the image of this checkout.

    That one tells which packages Debian has today, and its build cache has most layers of the
    record's.
    """
    from docker.errors import ImageNotFound

    record = runs.read_record(RECORD)
    wanted, environment = record.image, record.environment
    assert wanted is not None and environment is not None and environment.git_commit is not None
    has = ["git", "-C", str(ROOT), "cat-file", "-e", f"{environment.git_commit}^{{commit}}"]
    if subprocess.run(has, capture_output=True).returncode != 0:
        cannot_run(f"this clone has not the record's commit {environment.git_commit}")
    here = any(wanted.tag in one.tags for one in client.images.list())
    how = "present" if here else "built again"
    yield Committed(record, wanted, how, moved(client, built_image))
    if not here:
        # Not there where the rebuild failed, and with it the test.
        with contextlib.suppress(ImageNotFound):
            client.images.remove(wanted.tag, force=True)


def moved(client: DockerClient, built: image.Image) -> list[str]:
    """The packages of which Debian has another version than when the record was made, a line each.

    Those count that both images have: what the Dockerfile asks for is another matter. A base that
    came out otherwise from the same packages is a fault of ours.
    """
    found = packages.of_image(client, client.images.get(built.id))
    kept = packages.read(PACKAGES, found.architecture)
    assert kept is not None, f"{PACKAGES} is missing"
    both = kept.versions.keys() & found.versions.keys()
    assert {"libc6", "python3", "g++"} <= both
    return [
        f"{name} {kept.versions[name]} -> {found.versions[name]}"
        for name in sorted(both)
        if kept.versions[name] != found.versions[name]
    ]


def test_the_committed_record_is_repeated_in_its_very_image(
    committed: Committed, tmp_path: Path
) -> None:
    wanted = committed.image
    done = invoke("rerun", str(RECORD), "--json", "--out", str(tmp_path))
    if done.returncode != 0 and committed.moved:
        assert done.returncode == 2, done.stdout + done.stderr
        assert "the image cannot be had" in done.stderr and wanted.id in done.stderr
        assert "another image" in done.stderr, "for another reason than that one came out"
        assert list(runs.listed(tmp_path)) == [], "something ran in another image"
        warnings.warn(
            f"the image of {RECORD.name} cannot be built any more, docs/verified/rerun.md says how "
            f"it is renewed: Debian has {packages.few(committed.moved)}",
            stacklevel=1,
        )
        return
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["image"]["same"] is True and said["image"]["how"] == committed.how
    assert said["image"]["id"] == wanted.id
    assert [row["backend"] for row in said["parity"]] == list(committed.record.spec.backends)
    assert all(row["kept"] and row["new"]["passed"] for row in said["parity"])
    assert {row["backend"] for row in said["timings"]["rows"]} == set(
        committed.record.spec.backends
    )
