"""What a sweep says of the place it measures in, and how it guesses the time left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import choose, image, local_content, pins
from bench.host.choose import Choice
from bench.host.engine import endpoint
from bench.host.engine.local import LocalEngine
from bench.host.sweep import place
from bench.host.sweep.matrix import Cell
from bench.host.sweep.pace import Pace, in_words
from bench.host.sweep.place import Where
from bench.job import environment
from bench.record import ImageRef, JobSpec
from tests.conftest import ROOT
from tests.unit import samples

SMI = """#!/bin/sh
echo "NVIDIA H100 80GB HBM3, 570.86.15"
echo "NVIDIA H100 80GB HBM3, 570.86.15"
"""


def ref(content: str) -> ImageRef:
    labels = {image.CONTENT_LABEL: content}
    return ImageRef(id="sha256:1", digest=None, tag=f"gpt-frontend:cpu-{content}", labels=labels)


def cells(*profiles: str | None, device: str = "cpu") -> list[Cell]:
    return [Cell(JobSpec.model_validate({"device": device}), profile) for profile in profiles]


def test_host_and_job_see_the_same_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    seen = environment.describe()
    (spot,) = place.prepare(cells(None), "local", pins.load()).values()
    assert (spot.where.cpu, spot.where.cores) == (seen.cpu, seen.cores)
    assert place._gpu() == (seen.gpu, seen.driver)
    assert seen.gpu == "NVIDIA H100 80GB HBM3; NVIDIA H100 80GB HBM3"
    record = samples.record().model_copy(update={"environment": seen})
    assert spot.where.is_machine_of(record)
    assert not spot.where.is_machine_of(samples.record())


def test_a_machine_without_a_gpu_says_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert place._gpu() == (None, None)


@pytest.mark.parametrize(
    ("device", "change", "same"),
    [
        ("cpu", {}, True),
        ("cpu", {"cores": 4}, False),
        ("cpu", {"cpu": "B"}, False),
        ("cpu", {"gpu": "B"}, True),
        ("cuda", {}, True),
        ("cuda", {"gpu": "B"}, False),
        ("cuda", {"driver": "2"}, False),
    ],
)
def test_what_makes_another_machine(device: str, change: dict[str, Any], same: bool) -> None:
    where = Where("c", in_image=True, cpu="A", cores=2, gpu="G", driver="1")
    seen = {"cpu": "A", "cores": 2, "gpu": "G", "driver": "1", **change}
    there = samples.environment().model_copy(update=seen)
    spec = samples.record().spec.model_copy(update={"device": device})
    record = samples.record().model_copy(update={"environment": there, "spec": spec})
    assert where.is_machine_of(record) == same
    assert not where.is_machine_of(record.model_copy(update={"environment": None}))


def test_an_images_content_is_its_label_and_a_local_jobs_is_in_the_record() -> None:
    local = samples.record().model_copy(update={"content": "c", "environment": None})
    there = samples.record().model_copy(update={"image": ref("c")})
    in_image, outside = Where("c", True, "A", 2), Where("c", False, "A", 2)
    assert in_image.is_content_of(there) and not in_image.is_content_of(local)
    assert outside.is_content_of(local) and not outside.is_content_of(there)
    assert not Where("d", True, "A", 2).is_content_of(there)
    assert not Where("", False, "A", 2).is_content_of(local.model_copy(update={"content": None}))


def test_packages_that_are_not_installed_here_make_another_content() -> None:
    record = samples.record().model_copy(update={"content": "c"})
    packages = environment.describe().packages
    there = samples.environment().model_copy(update={"packages": packages})
    where = Where("c", False, "A", 2)
    assert where.is_content_of(record.model_copy(update={"environment": there}))
    there = there.model_copy(update={"packages": {**packages, "torch": "1.0"}})
    assert not where.is_content_of(record.model_copy(update={"environment": there}))


def test_every_profile_has_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(engine: str, profile: str | None, *rest: object) -> Choice:
        return Choice(LocalEngine(), ref(str(profile)), "an engine")

    monkeypatch.setattr(choose, "choose", chosen)
    monkeypatch.setattr(place, "_engine_cores", lambda cpus: 3)
    spots = place.prepare(cells("cpu", "latest", "cpu"), "auto", pins.load())
    assert {key[0]: spot.where.content for key, spot in spots.items()} == {
        "cpu": "cpu",
        "latest": "latest",
    }
    assert all(spot.where.in_image and spot.where.cores == 3 for spot in spots.values())


def test_a_profile_where_there_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    for engine in ("auto", "docker", "local"):
        for look in (place.prepare, place.preview):
            with pytest.raises(UsageFault) as caught:
                look(cells("cpu"), engine, pins.load())
            assert caught.value.hint


def test_without_an_engine_auto_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    for look in (place.prepare, place.preview):
        (spot,) = look(cells(None), "auto", pins.load()).values()
        assert not spot.where.in_image and spot.where.content == local_content.of(ROOT)
        assert "no container can be had" in spot.why


def test_cells_are_not_spread_over_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(engine: str, profile: str | None, base: None, gpu: bool, of: object) -> Choice:
        return Choice(LocalEngine(), ref("c") if gpu else None, "an engine")

    monkeypatch.setattr(choose, "choose", chosen)
    monkeypatch.setattr(place, "_engine_cores", lambda cpus: 3)
    both = cells(None) + cells(None, device="cuda")
    with pytest.raises(UsageFault, match="would not run on one engine"):
        place.prepare(both, "auto", pins.load())


class Client:
    """As much of an engine's client as tells how many cores it has."""

    def __init__(self, cores: object) -> None:
        self.cores = cores

    def info(self) -> dict[str, object]:
        return {"NCPU": self.cores}


@pytest.mark.parametrize(
    ("told", "cpus", "cores"),
    [(4, None, 4), (4, 2.5, 3), (4, 9.0, 4), (0, 2.0, None), (None, None, None)],
)
def test_the_engine_says_how_many_cores_a_container_sees(
    monkeypatch: pytest.MonkeyPatch, told: object, cpus: float | None, cores: int | None
) -> None:
    monkeypatch.setattr(endpoint, "find_endpoint", lambda environ: None)
    monkeypatch.setattr(endpoint, "connect", lambda where, environ: Client(told))
    assert place._engine_cores(cpus) == cores
    where = Where("c", True, "A CPU", cores)
    assert where.is_machine_of(samples.record()) == (cores is None)  # which has two


def test_the_content_is_of_the_code_that_a_job_runs(tmp_path: Path) -> None:
    for name in ("bench/record.py", "bench/job/gpt.py", "bench/host/launch.py", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = local_content.of(tmp_path)
    for name, changes in (
        ("README.md", False),
        ("bench/host/launch.py", False),
        ("bench/job/__pycache__/gpt.pyc", False),
        ("bench/job/gpt.py", True),
        ("bench/job/new/deeper.py", True),
        ("bench/record.py", True),
    ):
        before = local_content.of(tmp_path)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("2")
        assert (local_content.of(tmp_path) != before) == changes, name
    assert local_content.of(tmp_path) != first
    (tmp_path / "bench/job/gpt.py").unlink()
    (tmp_path / "bench/job/gpt.py").symlink_to("nowhere")  # as some editors lock a file
    local_content.of(tmp_path)


def spec(**given: Any) -> JobSpec:
    return JobSpec.model_validate({"backends": ("torch-eager",), **given})


def test_time_left_is_that_of_the_cells_most_alike() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.begin([spec()])
    assert pace.left() is None
    pace.learn(spec(model="gpt2", seq_len=16), 10.0)
    pace.learn(spec(model="gpt2", seq_len=512), 100.0)
    pace.learn(spec(model="gpt2", mode="decode", seq_len=16), 7.0)
    assert pace.guess(spec(model="gpt2", seq_len=32)) == 10.0
    assert pace.guess(spec(model="gpt2", seq_len=1024)) == 100.0
    assert pace.guess(spec(model="gpt2", seq_len=16, batch_size=64)) == 100.0
    assert pace.guess(spec(model="gpt2", mode="decode", seq_len=512)) == 7.0
    assert pace.guess(spec(model="gpt-nano", seq_len=512)) == 100.0
    twice = spec(model="gpt2", seq_len=16, backends=("torch-eager", "tvm-none"), rounds=3)
    assert pace.guess(twice) == 60.0
    pace.begin([spec(model="gpt2", seq_len=16), spec(model="gpt2", seq_len=512)])
    assert pace.left() == 110.0
    now[0] = 4.0
    assert pace.left() == 106.0
    now[0] = 50.0  # it takes longer than was thought
    assert pace.left() == 100.0
    pace.learn(spec(model="gpt2", seq_len=16), 20.0)
    assert pace.guess(spec(model="gpt2", seq_len=16)) == 20.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "time left unknown"),
        (0.4, "about 1 s left"),
        (59.0, "about 59 s left"),
        (61.0, "about 2 min left"),
        (3600.0, "about 1 h 0 min left"),
        (7300.0, "about 2 h 2 min left"),
    ],
)
def test_time_left_in_words(seconds: float | None, said: str) -> None:
    assert in_words(seconds) == said


def test_an_image_that_cannot_be_built_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Choice:
        raise JobFailed("the build failed", hint="the log")

    monkeypatch.setattr(choose, "choose", broken)
    with pytest.raises(JobFailed, match="the build failed"):
        place.prepare(cells("cpu"), "auto", pins.load())
