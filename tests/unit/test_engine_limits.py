"""What a job may take: read from options and a file, worked out for a run; and the watch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.errors import UsageFault
from bench.host.engine import limits, pids, watch
from bench.host.engine.base import Ending, Launch
from bench.host.engine.limits import DISK, GIB, Limits
from bench.limits import memory_bytes

MIB = 2**20


def config(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return {"GPT_FRONTEND_CONFIG": str(path)}


def test_limits_are_read_as_people_write_them(tmp_path: Path) -> None:
    got = limits.load("memory=1.5g, pids=64,cpus=2,disk=10GiB,file=512MB,tmp=64m", {"HOME": "/x"})
    assert got == Limits(
        memory=3 * GIB // 2, pids=64, cpus=2.0, disk=10 * GIB, file=512 * MIB, tmp=64 * MIB
    )
    assert limits.load(None, {"HOME": "/x"}) == Limits()


def test_the_command_line_counts_before_the_file(tmp_path: Path) -> None:
    environ = config(tmp_path, '[limits]\nmemory = "8g"\npids = 100\n[mirrors]\n')
    assert limits.load(None, environ) == Limits(memory=8 * GIB, pids=100)
    assert limits.load("memory=1g", environ) == Limits(memory=GIB, pids=100)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("memory", "memory=: not a size"),
        ("memory=lots", "memory=lots: not a size"),
        ("memory=1m", "not a size from 32 MiB"),
        ("disk=-1g", "not a size"),
        ("pids=4", "not a number from 8"),
        ("pids=1e3", "not a number from 8"),
        ("cpus=0", "not a number of cores"),
        ("cpus=nan", "not a number of cores"),
        ("names=3", "no limit 'names'"),
        ("swap=1g", "no limit 'swap'"),
    ],
)
def test_what_is_no_limit_is_refused(option: str, said: str) -> None:
    with pytest.raises(UsageFault, match=said) as caught:
        limits.load(option, {"HOME": "/x"})
    assert caught.value.hint


@pytest.mark.parametrize("text", ["limits = 3", "[limits]\nmemory = 3.5", "[limits]\nx = 1", "["])
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageFault, match=r"config\.toml"):
        limits.load(None, config(tmp_path, text))


def test_a_machine_keeps_some_memory_for_itself() -> None:
    here = memory_bytes()
    spared = Limits().on(2 * here)  # the engine may see more than a cgroup leaves us
    assert spared.memory is not None and here // 2 <= spared.memory <= here - min(
        512 * MIB, here // 2
    )
    assert Limits().on(GIB).memory == GIB // 2
    assert Limits().on(GIB).tmp == GIB // 4
    assert Limits().on(0) == spared
    named = Limits(memory=100 * MIB, tmp=MIB).on(GIB)
    assert (named.memory, named.tmp) == (100 * MIB, MIB)


def test_a_disk_budget_fits_the_run_and_the_disk() -> None:
    assert Limits().of_run(MIB, 1000 * GIB).disk == DISK
    assert Limits().of_run(50 * GIB, 1000 * GIB).disk == 100 * GIB
    assert Limits().of_run(MIB, GIB).disk == GIB - 64 * MIB
    assert Limits(disk=5 * GIB).of_run(50 * GIB, 1000 * GIB).disk == 5 * GIB
    assert Limits(disk=5 * GIB, file=6 * GIB).of_run(0, 1000 * GIB).file == 5 * GIB
    assert Limits(file=GIB).of_run(0, 1000 * GIB).file == GIB


def at(tmp_path: Path, **bounds: int) -> Launch:
    for name in ("run", "store"):
        (tmp_path / name).mkdir()
    (tmp_path / "store" / "before").write_bytes(b"x" * 10 * MIB)
    return Launch("id", tmp_path / "run", tmp_path / "store", 60, limits=Limits(**bounds))


def test_the_watch_counts_the_run_and_the_stores_growth(tmp_path: Path) -> None:
    launch = at(tmp_path, disk=4 * MIB)
    disk = watch.DiskWatch(launch)
    (launch.run_dir / "file").write_bytes(b"x" * 2 * MIB)
    (launch.store / "grown").write_bytes(b"x" * MIB)
    assert disk.look() is None
    (launch.store / "more").write_bytes(b"x" * 2 * MIB)
    want = "disk budget: over 4 MiB, most of it in the artefact store (--limits disk=)"
    assert str(disk.look().reason()) == want  # type: ignore[union-attr]
    (launch.store / "before").unlink()  # another run's trim gives this one no credit
    (launch.run_dir / "more").write_bytes(b"x" * 3 * MIB)
    ending = disk.look()
    assert ending is not None and "most of it in the run directory" in ending.reason()


def test_looking_takes_a_small_part_of_the_time(tmp_path: Path) -> None:
    now = [0.0]
    disk = watch.DiskWatch(at(tmp_path), clock=lambda: now[0])
    looks = []

    def look() -> None:
        looks.append(now[0])
        now[0] += 0.5  # a large tree on a slow disk

    disk.look = look  # type: ignore[method-assign]
    for _ in range(1200):
        disk()
        now[0] += 0.1
    assert looks[:2] == [0.0, pytest.approx(50.6, abs=0.2)]


def test_a_file_at_its_limit_is_named_where_the_job_failed(tmp_path: Path) -> None:
    launch = at(tmp_path, file=MIB)
    disk = watch.DiskWatch(launch)
    (launch.run_dir / "big").write_bytes(b"x" * MIB)
    clean, failed = Ending("exited", exit_code=0), Ending("exited", exit_code=1)
    assert disk.told(clean) == clean
    assert (
        disk.told(failed).reason() == "exit code 1: 'big' met the limit of 1 MiB (--limits file=)"
    )


@pytest.mark.parametrize("controllers", ["pids", ""])
def test_a_refused_process_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str
) -> None:
    group = tmp_path / controllers / "docker" / "abc"
    group.mkdir(parents=True)
    (group / "pids.events").write_text("max 0\n")
    real = Path.read_text

    def read_text(path: Path, *args: str) -> str:
        if str(path) == "/proc/17/cgroup":
            return f"9:memory:/docker/abc\n8:{controllers}:/docker/abc\n"
        return real(path, *args)

    monkeypatch.setattr(Path, "read_text", read_text)
    container = SimpleNamespace(id="abc", attrs={"State": {"Pid": 17}}, reload=lambda: None)
    limit = pids.PidsLimit(tmp_path)
    limit.find(container)
    failed = Ending("exited", exit_code=1)
    assert limit.told(failed, Limits(pids=64)) == failed
    (group / "pids.events").write_text("max 3\n")
    limit.look()
    (group / "pids.events").unlink()  # the container has ended
    limit.look()
    met = "it met the limit of 64 processes and threads (--limits pids=)"
    assert limit.told(failed, Limits(pids=64)).reason() == f"exit code 1: {met}"
    clean = Ending("exited", exit_code=0)
    assert limit.told(clean, Limits(pids=64)) == clean


def test_a_pid_of_another_machine_is_nobody(tmp_path: Path) -> None:
    container = SimpleNamespace(id="abc", attrs={"State": {"Pid": 1}}, reload=lambda: None)
    limit = pids.PidsLimit(tmp_path)
    limit.find(container)
    assert limit.refusals == 0
