"""The main job for real: `invoke bench` in the image that this project built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.catalog import BACKENDS
from bench.host import runs
from bench.host.engine.docker import RUN_LABEL
from bench.host.engine.endpoint import Endpoint
from bench.host.image import Image
from bench.record import RunRecord
from tests.conftest import ROOT, cannot_run

if TYPE_CHECKING:
    from docker import DockerClient

NANO = ("--model", "gpt-nano", "--seq-len", "16", "--repeats", "10")


def bench(
    endpoint: Endpoint, out: Path, *arguments: str, **environ: str
) -> tuple[RunRecord, Path, str]:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "bench", "--out", str(out), *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = runs.listed(out)
    return runs.read_record(path / runs.RECORD), path, done.stdout


@pytest.fixture(scope="module")
def in_docker(
    endpoint: Endpoint, built_image: Image, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunRecord, Path, str]:
    return bench(endpoint, tmp_path_factory.mktemp("docker"), "--engine", "docker", *NANO)


@pytest.mark.parametrize(
    "backends",
    [
        pytest.param(("tvm-none", "tvm-optimized"), id="before and after"),
        # Six minutes on two cores, nearly half of them for tvm-default.
        pytest.param(tuple(BACKENDS), id="all", marks=pytest.mark.slow),
    ],
)
def test_gpt2_124m_is_measured_before_and_after_inside_the_image(
    endpoint: Endpoint, built_image: Image, tmp_path: Path, backends: tuple[str, ...]
) -> None:
    """GPT-2 at its full size."""
    asked = () if backends == tuple(BACKENDS) else ("--backends", ",".join(backends))
    record, path, printed = bench(endpoint, tmp_path, "--engine", "docker", *asked)
    assert (record.status, record.engine, record.spec.model) == ("ok", "docker", "gpt2")
    assert record.image is not None and record.image.id == built_image.id
    rows = {row.backend: row for row in record.results}
    assert tuple(rows) == backends
    for name, row in rows.items():
        assert row.parity is not None and row.parity.passed and row.parity.top1_agreement >= 0.99
        assert row.latency_ms is not None
        assert len(row.latency_ms.samples) >= (3 if name == "tvm-none" else 10)
        assert (row.batch_size, row.seq_len, row.dtype) == (1, 64, "float32")
    before, after = rows["tvm-none"].latency_ms, rows["tvm-optimized"].latency_ms
    assert before is not None and after is not None
    # Not a speed limit: a factor of two is far below what packing alone gives (tens), and far
    # above what a noisy machine takes away. Equal would mean that one pipeline ran twice.
    assert after.median * 2 < before.median
    assert "before" in printed and "after" in printed and "faster" in printed
    assert "| tvm-optimized | after |" in (path / "report.md").read_text().replace("\\", "")


def test_the_record_names_the_image_that_was_built(
    in_docker: tuple[RunRecord, Path, str], built_image: Image, client: DockerClient
) -> None:
    image = in_docker[0].image
    assert image is not None
    there = client.images.get(built_image.tag)
    assert image.id == there.id == built_image.id
    assert image.tag == built_image.tag
    assert image.labels == there.labels
    assert image.digest is None or any(image.digest in d for d in there.attrs["RepoDigests"])


def test_the_tvm_library_of_the_record_is_the_one_in_the_image(
    in_docker: tuple[RunRecord, Path, str], built_image: Image, client: DockerClient
) -> None:
    """Its sha256, taken by another program in another container."""
    where = in_docker[0].environment
    assert where is not None and where.tvm_library is not None
    said = client.containers.run(
        built_image.id, ["sha256sum", where.tvm_library.path], network_mode="none", remove=True
    )
    digest = said.decode().split()[0]
    version, _, identity = where.tvm_library.build_id.partition("+")
    assert version == built_image.labels["io.gpt-frontend.pin.tvm"]
    kind, _, value = identity.partition(".")
    if kind == "sha256":
        assert value == digest
    else:
        notes = client.containers.run(
            built_image.id, ["readelf", "-n", where.tvm_library.path], remove=True
        )
        assert value in notes.decode()


def test_docker_and_local_give_records_that_differ_only_where_they_may(
    in_docker: tuple[RunRecord, Path, str], endpoint: Endpoint, tmp_path: Path
) -> None:
    local, _, _ = bench(endpoint, tmp_path, "--engine", "local", *NANO)
    one, two = (comparable(record) for record in (in_docker[0], local))
    assert one == two
    assert (in_docker[0].engine, local.engine) == ("docker", "local")
    assert local.image is None
    for record in (in_docker[0], local):
        for row in record.results:
            assert row.parity is not None and row.parity.passed


def comparable(record: RunRecord) -> dict[str, object]:
    """The record without engine, image, environment, timings and the rounding of errors."""
    # A local run is told by its content, one in a container by its image.
    whole = record.model_dump(exclude={"run_id", "engine", "image", "content", "environment"})
    for row in whole["results"]:
        timed = ("latency_ms", "ttft_ms", "tokens_per_s", "compile_s", "peak_memory_mib")
        for measured in (*timed, "warmup_calls", "energy", "operators"):
            row[measured] = row[measured] is not None
        row["roofline"] = {k: row["roofline"][k] for k in ("flops", "bytes_moved")}
        del row["unstable"]  # what the machine did meanwhile
        row["parity"] = {k: row["parity"][k] for k in ("reference", "passed", "top1_agreement")}
        # The address of an artefact holds torch's build, which the two may not share.
        row["artefact"] = row["artefact"] is not None
        row["compile_cached"] = row["compile_cached"] is not None
    return dict(whole)


def test_results_belong_to_the_caller_and_are_whole(
    in_docker: tuple[RunRecord, Path, str],
) -> None:
    _, path, _ = in_docker
    names = sorted(p.name for p in path.iterdir())
    assert names == ["job.log", "record.json", "report.md", "spec.json"]
    for file in (path, *path.iterdir()):
        assert (file.stat().st_uid, file.stat().st_gid) == (os.getuid(), os.getgid())


def test_under_sudo_results_belong_to_who_called_it(
    endpoint: Endpoint, built_image: Image, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        cannot_run("only root can be behind sudo")
    sudo = {"SUDO_UID": "1234", "SUDO_GID": "1235", "GPT_FRONTEND_STORE": str(tmp_path / "store")}
    _, path, _ = bench(
        endpoint, tmp_path / "out", "--engine", "docker", *NANO, "--backends", "tvm-none", **sudo
    )
    for file in (path.parent, path, *path.iterdir(), *(tmp_path / "store").rglob("*.so")):
        assert (file.stat().st_uid, file.stat().st_gid) == (1234, 1235), file


def test_no_container_is_left(in_docker: tuple[RunRecord, Path, str], client: DockerClient) -> None:
    label = f"{RUN_LABEL}={in_docker[0].run_id}"
    assert client.containers.list(all=True, filters={"label": label}) == []
