"""The source path built twice without cache; and what would make it differ is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import image
from tests.docker.source import llvm_tarball
from tests.docker.source.conftest import Forge
from tests.docker.source.llvm_tarball import Archive
from tests.docker.source.trial import Trial

if TYPE_CHECKING:
    from docker import DockerClient

SETTLED = "rm -rf /tmp/* /var/tmp/*\nsettle\nSHELL\n"
# In the step of the Python packages: a date in a file, an archive in no order, and a file that is
# written after the others were given their date.
PLANTED = r"""rm -rf /tmp/* /var/tmp/*
date '+built on %Y-%m-%d at %H:%M:%S.%N' >/opt/venv/stamp.txt
mkdir /tmp/many
cd /tmp/many
seq 1 40 | xargs touch -d @0
tar --mtime=@0 -cf /opt/venv/unsorted.tar $(shuf -e *)
cd /
rm -rf /tmp/many
settle
touch /opt/venv/late
SHELL
"""
COMPILE = "python3 -B /mnt/compile.py"
# What is compiled of this salt in Debug, as it came out on the machine where this was written (two
# cores of an AMD EPYC, 2026-11-29), and by what. Another compiler or LLVM, or other options in
# bench/build/compile.py, make other libraries: then these are renewed from what the failure shows.
SALT = "the same everywhere"
BY = {"gcc": "12.2.0", "llvm": "14.0.6"}
ELSEWHERE = {  # sha256
    "libtvm.so": "f43f33edb79b559725704f8be2b1b4cb9e254ef574b1be11e5c47849c776dd28",
    "libtvm_runtime.so": "5e7c18d761010b43a853d53c21d1f0fadd5264a56efe7bce3506ab4d770e4124",
}


@pytest.fixture(scope="module")
def own_archive(forge: Forge, llvm: Path, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """LLVM for here alone: no other test finds in the cache what is fetched here."""
    return forge.publish(llvm_tarball.pack(llvm, tmp_path_factory.mktemp("archive")))


@pytest.fixture(scope="module")
def own(prepared: Trial, forge: Forge, own_archive: Archive) -> Trial:
    """A build of sources of its own: no other test finds in the cache what is built here."""
    return prepared.with_pins(forge.project(), own_archive)


@pytest.fixture
def planted(own: Trial, tmp_path: Path, client: DockerClient) -> Iterator[Trial]:
    root = shutil.copytree(own.root, tmp_path / "project")
    dockerfile = root / "docker" / "Dockerfile"
    text = dockerfile.read_text()
    assert text.count(SETTLED) == 1 and text.count(COMPILE) == 1
    text = text.replace(SETTLED, PLANTED).replace(COMPILE, f"unset SOURCE_DATE_EPOCH\n{COMPILE}")
    dockerfile.write_text(text)
    trial = own.but(root=root)
    yield trial
    for one in client.images.list(filters={"label": f"{image.CONTENT_LABEL}"}):
        for tag in one.tags:
            if tag.startswith(trial.plan().tag):
                client.images.remove(tag)


def test_image_from_source_comes_out_the_same(
    own: Trial, client: DockerClient, tmp_path: Path
) -> None:
    """With __DATE__ in its code, which SOURCE_DATE_EPOCH fixes, and without ccache."""
    first = own.image()
    try:
        outcome = own.again(first, tmp_path)
    finally:
        client.images.remove(first.tag)
    assert outcome.record.same, outcome.record.differences[:20]
    assert outcome.kept is None


def test_libraries_are_those_of_another_machine(
    prepared: Trial, forge: Forge, own_archive: Archive, tmp_path: Path
) -> None:
    """C++ compiled here, to the byte what it was where ELSEWHERE was written down."""
    trial = prepared.with_pins(forge.project(SALT), own_archive)
    outcome = trial.run("tvm", f"type=local,dest={tmp_path}")
    assert outcome.failure is None, outcome.told
    versions = json.loads((tmp_path / "built" / "facts.json").read_text())["versions"]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        found = {
            Path(name).name: hashlib.sha256(packed.read(name)).hexdigest()
            for name in packed.namelist()
            if name.endswith(".so")
        }
    assert {name: versions[name] for name in BY} == BY, f"another toolchain: {found}"
    assert found == ELSEWHERE


def test_what_differs_is_named_by_layer_file_and_kind(planted: Trial, tmp_path: Path) -> None:
    first = planted.image()
    outcome = planted.again(first, tmp_path / "records")
    told = {one.path: one for one in outcome.record.differences}
    assert not outcome.record.same and outcome.kept is not None
    library = "opt/venv/lib/python3.11/site-packages/tvm/lib/libtvm.so"
    packages, tvm = "Python packages", "TVM, and versions against the pins"
    for path, step, kind, suspect in (
        ("opt/venv/stamp.txt", packages, "a date", packages),
        ("opt/venv/unsorted.tar", packages, "archive order", packages),
        ("opt/venv/late", packages, "time stamp", packages),
        (library, tvm, "__DATE__ or __TIME__", "compile TVM"),
    ):
        found = told[path]
        assert (found.step, found.kind, found.suspect) == (step, kind, suspect), found
        assert found.layer == (3 if step == packages else 5), found
        assert found.remedy
    pair = [outcome.kept / which / "layer-3/opt/venv/stamp.txt" for which in ("first", "second")]
    assert pair[0].read_text() != pair[1].read_text()
    assert planted.client.images.get(f"{first.tag}{image.REBUILT}").id == outcome.record.second
