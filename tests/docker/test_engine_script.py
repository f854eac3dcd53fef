"""docker/engine.sh, with a second engine beside the one that the other tests use."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host.engine.endpoint import Endpoint, connect
from tests.conftest import cannot_run

if TYPE_CHECKING:
    from docker import DockerClient

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "engine.sh"
NAME = "gpt-test"
RUN, DATA = Path("/run", NAME), Path("/var/lib", NAME)


def engine(*arguments: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), "--name", name, *arguments], capture_output=True, text=True, timeout=300
    )


def firewall() -> list[str]:
    """The rules in force, without the counters and dates that iptables-save adds."""
    done = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True)
    return sorted(line for line in done.stdout.splitlines() if line.startswith("-A"))


def processes() -> set[str]:
    """The daemons that run, and the second engine's containers; others' come and go."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        ours = f"{RUN}/containerd.sock".encode() in words
        if re.search(rb"dockerd$|containerd$", words[0]) or ours:
            found.add(path.parent.name + b" ".join(words).decode())
    return found


@pytest.fixture(scope="module")
def second(endpoint: Endpoint) -> Iterator[Endpoint]:
    """A second engine, started and purged here. Starting it needs root.

    ``endpoint``, so that a test run installs no engine on a machine that has none.
    """
    if os.geteuid() != 0:
        cannot_run("docker/engine.sh up needs root")
    before = processes(), firewall()
    done = engine("up")
    try:
        assert done.returncode == 0, done.stderr
        yield Endpoint(f"unix://{RUN}/docker.sock", "test")
    finally:
        gone = engine("down", "--purge")
    assert gone.returncode == 0, gone.stderr
    assert (processes(), firewall()) == before
    assert not RUN.exists() and not DATA.exists()
    assert not Path("/sys/class/net", f"br-{NAME}").exists()


def test_second_up_does_nothing(second: Endpoint) -> None:
    before = processes(), firewall(), (RUN / "dockerd.json").stat().st_mtime_ns
    done = engine("up")
    assert done.returncode == 0
    assert (processes(), firewall(), (RUN / "dockerd.json").stat().st_mtime_ns) == before


def test_status_tells_socket_version_and_state(second: Endpoint) -> None:
    running = engine("status")
    assert running.returncode == 0
    assert second.url in running.stdout and "running" in running.stdout
    client = connect(second)
    assert client.version()["Version"] in running.stdout
    client.close()
    absent = engine("status", name="gpt-none")
    assert absent.returncode == 1 and "not running" in absent.stdout
    assert absent.stderr == ""


def test_shares_nothing_with_the_first(
    second: Endpoint, endpoint: Endpoint, client: DockerClient, base_ref: str
) -> None:
    other = connect(second)
    try:
        assert second.url != endpoint.url
        assert other.images.list() == []
        assert client.images.get(base_ref) is not None
        info = other.info()
        assert info["DockerRootDir"] == f"{DATA}/docker"
        assert info["DriverStatus"][0][1] == "io.containerd.snapshotter.v1"
    finally:
        other.close()


def test_containers_of_both_reach_the_outside(
    second: Endpoint, endpoint: Endpoint, client: DockerClient, base_ref: str
) -> None:
    """Each has its own bridge and address range, and both have a way out."""
    other = connect(second)
    try:
        archive = b"".join(client.images.get(base_ref).save(named=True))
        other.images.load(archive)
        nets = set()
        for one in (client, other):
            routes = one.containers.run(
                base_ref, ["cat", "/proc/net/route", "/etc/resolv.conf"], remove=True
            ).decode()
            # Gateways are the second words, in hexadecimal; 0 is the own network.
            nets |= {
                line.split()[2] for line in routes.splitlines() if line.startswith("eth0\t00000000")
            }
            fetched = one.containers.run(base_ref, ["apt-get", "update"], remove=True)
            assert b"Reading package lists" in fetched
        assert len(nets) == 2
    finally:
        other.close()


def test_stale_pidfile_of_a_stranger_stops_nobody(second: Endpoint, tmp_path: Path) -> None:
    """`down` looks at what a pid is, and not only at its number."""
    stranger = subprocess.Popen(["sleep", "300"])
    pidfile = RUN / "dockerd.pid"
    own = pidfile.read_text()
    try:
        pidfile.write_text(f"{stranger.pid}\n")
        assert engine("status").returncode == 1
        assert stranger.poll() is None
    finally:
        pidfile.write_text(own)
        stranger.kill()
        stranger.wait()
    assert engine("status").returncode == 0


def test_images_outlive_down_and_up(second: Endpoint, client: DockerClient, base_ref: str) -> None:
    other = connect(second)
    other.images.load(b"".join(client.images.get(base_ref).save(named=True)))
    identity = other.images.get(base_ref).id
    other.close()
    assert engine("down").returncode == 0
    assert engine("status").returncode == 1
    assert engine("down").returncode == 0, "down twice"
    assert engine("up").returncode == 0
    other = connect(second)
    assert other.images.get(base_ref).id == identity
    other.close()


def test_installs_the_engine_on_a_bare_debian_and_leaves_apt_as_it_was(
    client: DockerClient, base_ref: str
) -> None:
    """In a container: the sources are in one-line form there, and nothing is installed yet."""
    steps = """
        set -e
        dpkg-query -W | LC_ALL=C sort >/tmp/before; cp -a /etc/apt /tmp/apt
        source /engine.sh; install_missing; trap - ERR
        dpkg-query -W | LC_ALL=C sort >/tmp/after; diff -r /etc/apt /tmp/apt
        test ! -e /usr/sbin/policy-rc.d
        test -z "$(missing_packages)"
        dockerd --version; docker buildx version
        echo "changed: $(LC_ALL=C comm -23 /tmp/before /tmp/after)"
        install_missing
    """
    output = client.containers.run(
        base_ref,
        ["bash", "-c", steps],
        volumes={str(SCRIPT): {"bind": "/engine.sh", "mode": "ro"}},
        remove=True,
        stderr=True,
    ).decode()
    assert "Docker version" in output
    assert output.endswith("changed: \n"), "a package of the machine's own was changed"
    assert output.count("installing:") == 1


def test_next_releases_sources_are_derived_from_the_machines_own(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "sources.list").write_text(
        "deb [arch=amd64] http://one.example/debian bookworm main # note\n"
        "#deb http://commented.example/debian bookworm main\n"
        "deb-src http://source.example/debian bookworm main\n"
        "deb http://one.example/security bookworm-security main\n"
        "deb http://one.example/debian bookworm-backports main\n"
        "deb http://third.example stable main\n"
    )
    (tmp_path / "sources.list.d" / "a.sources").write_text(
        "Types: deb deb-src\n# note\nURIs: http://two.example/debian\n"
        "Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/k.gpg\n\n"
        "Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nEnabled: no\n\n"
        "Types: deb\nURIs: http://third.example/node\nSuites: nodistro\nComponents: main\n"
    )
    command = f"source {SCRIPT}; derive_trixie {tmp_path} {tmp_path}/into"
    subprocess.run(["bash", "-c", command], check=True)
    assert (tmp_path / "into" / "trixie.list").read_text().splitlines() == [
        "deb [arch=amd64] http://one.example/debian trixie main # note",
        "deb http://one.example/security trixie-security main",
    ]
    assert (tmp_path / "into" / "trixie.sources").read_text().split("\n\n") == [
        "Types: deb deb-src\nURIs: http://two.example/debian\nSuites: trixie trixie-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg",
        "",
    ]


@pytest.mark.parametrize(
    "arguments",
    [[], ["start"], ["up", "now"], ["down", "--all"], ["--name", "Bad Name", "up"], ["--name"]],
)
def test_bad_arguments(arguments: list[str]) -> None:
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "\nhint: " in done.stderr


def test_without_root_nothing_is_begun() -> None:
    if os.geteuid() != 0:
        command = [str(SCRIPT)]
    else:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-s"]
    for verb in ("up", "down"):
        done = subprocess.run(
            [*command, *(["--"] if len(command) > 1 else []), verb],
            input=SCRIPT.read_text() if len(command) > 1 else None,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "needs root" in done.stderr and "hint: sudo" in done.stderr


def test_help_teaches() -> None:
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("up", "down", "status", "--purge"))
