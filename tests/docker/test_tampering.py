"""What a job leaves behind to mislead the host that reads it: nothing is followed, nothing lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.host import choose, owner, pins, runs, store
from bench.host.engine.base import Launch
from bench.host.engine.docker import OWNER_LABEL, RUN_LABEL, DockerEngine
from bench.host.engine.endpoint import Endpoint
from bench.host.engine.limits import Limits
from bench.host.image import Image
from bench.record import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient

from tests.docker.cage import MIB, RUN, STORE, Cage


def test_links_and_pipes_lead_the_host_nowhere(cage: Cage, capsys: Any) -> None:
    """Everything that the host reads or writes after a job is something else than it seems."""
    secret = cage.canary / "secret"
    code = f"""
import os
os.chdir('{RUN}')
os.remove('job.log')
os.remove('spec.json')
for name in ('record.json', 'report.md', 'job.log', 'spec.json', 'loss.csv', 'owner.json'):
    os.symlink({str(secret)!r}, name)
os.symlink({str(cage.canary)!r}, 'scratch')
os.symlink({str(cage.canary)!r}, 'checkpoint')
os.symlink('/etc', 'checkpoint.previous')
os.mkfifo('outcome.json')
os.mkdir('outcome.json.partial')
os.mkfifo('pipe')
import socket
socket.socket(socket.AF_UNIX).bind('socket')
os.makedirs('shut/inner')
open('shut/inner/file', 'w').close()
os.chmod('shut', 0)
print('a word of the job')
"""
    record, path = cage.run(code)
    assert record.reason == "the job ended without an outcome"
    kept = {one.name: one.lstat() for one in path.rglob("*")}
    assert set(kept) == {
        "job.log", "record.json", "report.md", "spec.json", "shut", "inner", "file",
    }  # fmt: skip
    assert {(one.st_uid, one.st_gid) for one in kept.values()} == {(os.getuid(), os.getgid())}
    assert all(stat.S_ISREG(o.st_mode) or stat.S_ISDIR(o.st_mode) for o in kept.values())
    assert "a word of the job" in (path / "job.log").read_text()
    assert JobSpec.model_validate_json((path / "spec.json").read_text()).model == "gpt-nano"
    assert runs.read_record(path / "record.json") == record
    said = capsys.readouterr().err
    assert "the job tampered with its run: removed the link" in said


@pytest.mark.parametrize(
    "left",
    [
        "os.symlink('/proc/self/environ', 'outcome.json')",
        "os.mkdir('outcome.json')",
        "open('outcome.json', 'w').write('[' * 100_000)",
        "os.truncate(os.open('outcome.json', os.O_CREAT | os.O_WRONLY), 2**28 + 1)",
    ],
)
def test_a_false_outcome_is_none(cage: Cage, left: str) -> None:
    record, path = cage.run(f"import os; os.chdir('{RUN}'); {left}", Limits(disk=512 * MIB))
    assert record.reason == "the job ended without an outcome"
    assert not (path / "outcome.json").exists()


def test_a_store_full_of_links_is_lent_and_trimmed_without_following_them(cage: Cage) -> None:
    code = f"""
import os
os.makedirs('{STORE}/lib/entry')
os.makedirs('{STORE}/params')
os.mkfifo('{STORE}/lib/entry/meta.json')
open('{STORE}/lib/entry/lib.so', 'w').write('a library')
os.symlink({str(cage.canary)!r}, '{STORE}/lib/linked')
os.symlink({str(cage.canary / "secret")!r}, '{STORE}/params/linked')
os.symlink({str(cage.canary)!r}, '{STORE}/linked')
"""
    cage.run(code)
    cage.store = store.Store(cage.store.root, limit_bytes=0)
    cage.run("pass")  # which lends the store again, and trims it
    assert list((cage.store.root / "lib").iterdir()) == []


def test_a_killed_hosts_container_is_removed_by_the_next_job(
    client: DockerClient, endpoint: Endpoint, built_image: Image
) -> None:
    def left_by(whose: str) -> Any:
        labels = {RUN_LABEL: "left", OWNER_LABEL: whose}
        made = client.containers.create(
            built_image.id, ["sleep", "600"], labels=labels, network_mode="none", init=True
        )
        made.start()
        return made

    pid, start, where = owner.mine().split(":")
    dead = left_by(f"{pid}:{int(start) - 1}:{where}")
    foreign = left_by(f"{pid}:{int(start) - 1}:{int(where) + 1}")
    try:
        chosen = choose.choose("docker", None, None, False, pins.load(), built_image.tag)
        assert f"removed what killed runs had left: {dead.name}" in chosen.why
        names = [one.name for one in client.containers.list(all=True)]
        assert dead.name not in names and foreign.name in names
    finally:
        foreign.remove(force=True)


def test_limits_are_the_containers(
    client: DockerClient, built_image: Image, tmp_path: Path
) -> None:
    """What the job sees of its limits; cores are what its own count of them goes by."""
    (tmp_path / "run").mkdir()
    (tmp_path / "store").mkdir()
    engine = DockerEngine(client, built_image.id)
    engine.command = (
        "python", "-c",
        "import resource as r; from bench import limits; import os\n"
        "print(limits.memory_bytes(), limits.available_cores(),\n"
        "      r.getrlimit(r.RLIMIT_FSIZE)[1], r.getrlimit(r.RLIMIT_CORE)[1],\n"
        "      os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize)",
    )  # fmt: skip
    limits = Limits(memory=256 * MIB, cpus=1.0, disk=64 * MIB, file=32 * MIB, tmp=16 * MIB)
    lines: list[str] = []
    at = Launch("limits", tmp_path / "run", tmp_path / "store", 60, limits=limits)
    assert engine.run(at, lines.append).clean
    assert lines[-1].split() == [str(n) for n in (256 * MIB, 1, 32 * MIB, 0, 16 * MIB)]
