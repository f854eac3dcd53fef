"""What a hostile job tries, in a real container: contained, told with its reason, host untouched.

The jobs are small Python programs in place of `python -m bench.job`; the limits are small too.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.host import launch, runs, untrusted
from bench.host.engine.endpoint import PRIVATE_SOCKET
from bench.host.engine.limits import Limits

if TYPE_CHECKING:
    pass

from tests.docker.cage import MIB, RUN, SECRET, SPEC, STORE, Cage


def test_nothing_outside_the_jobs_places_can_be_written(cage: Cage) -> None:
    places = ["/", "/etc", "/usr/bin", "/opt", "/var/tmp", "/run", "/run/gpt-frontend", "/sys"]
    places += ["/sys/fs/cgroup", "/proc", "/dev", f"{RUN}/.."]
    files = ["/etc/passwd", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"]
    files += ["/proc/sys/vm/drop_caches", "/sys/kernel/uevent_helper", "/sys/power/state"]
    seen = cage.tries(
        f"for place in {places!r}: tries(place, lambda: open(place + '/planted', 'w'))\n"
        f"for file in {files!r}: tries(file, lambda: open(file, 'w').write('x'))\n"
        f"tries('run', lambda: open('{RUN}/planted', 'w'))\n"
        f"tries('store', lambda: open('{STORE}/planted', 'w'))\n"
    )
    assert (seen.pop("run"), seen.pop("store")) == (True, True)
    assert set(seen) == {*places, *files}
    assert {where for where, how in seen.items() if how is True} == set()


def test_no_network_is_there_to_be_reached(cage: Cage) -> None:
    routes = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True).stdout
    hosts = [line.split()[3].split("/")[0] for line in routes.splitlines()]
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        seen = cage.tries(
            f"for host in {hosts!r}:\n"
            f"    tries(host, lambda: socket.create_connection((host, {port}), 2))\n"
            "tries('dns', lambda: socket.getaddrinfo('example.org', 80))\n"
            "tries('far', lambda: socket.create_connection(('192.0.2.1', 80), 2))\n"
            "tries('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))\n"
            "tries('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n"
            "seen['interfaces'] = sorted(name for _, name in socket.if_nameindex())\n"
        )
        with pytest.raises(BlockingIOError):
            server.accept()  # nobody has knocked
    assert seen.pop("interfaces") == ["lo"]
    assert len(seen) >= 5
    assert {what for what, how in seen.items() if how is True} == set()


def test_the_engine_is_out_of_reach(cage: Cage) -> None:
    sockets = ["/var/run/docker.sock", "/run/docker.sock", str(PRIVATE_SOCKET)]
    sockets += ["/run/containerd/containerd.sock", os.environ.get("DOCKER_HOST", "unix:///x")[7:]]
    seen = cage.tries(
        f"for path in {sockets!r}:\n"
        "    tries(path, lambda: socket.socket(socket.AF_UNIX).connect(path))\n"
        "found = [os.path.join(parent, name) for top in ('/run', '/var', '/tmp')\n"
        "         for parent, _, names in os.walk(top) for name in names\n"
        "         if name.endswith('.sock')]\n"
        "seen['sockets'] = found\n"
    )
    assert seen.pop("sockets") == []
    assert set(seen.values()) == {"ENOENT"}


def test_no_way_leads_to_root(cage: Cage) -> None:
    """Neither by asking, nor by the image's own set-uid programs, nor by one made for later."""
    seen = cage.tries(
        "tries('setuid', lambda: os.setuid(0))\n"
        "tries('setgid', lambda: os.setgid(0))\n"
        "tries('setgroups', lambda: os.setgroups([0]))\n"
        "tries('chown', lambda: os.chown('/run/gpt-frontend/run/spec.json', 0, 0))\n"
        "programs = subprocess.run(['find', '/usr', '-xdev', '-perm', '-4000'],\n"
        "                          capture_output=True, text=True).stdout.split()\n"
        "seen['programs'] = len(programs)\n"
        "done = subprocess.run(['mount', '--bind', '/etc', '/tmp'], capture_output=True)\n"
        "seen['mount'] = done.returncode == 0\n"
        "done = subprocess.run(['su', '-c', 'id -u'], capture_output=True, input=b'')\n"
        "seen['su'] = done.returncode == 0\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "for name in ('NoNewPrivs', 'CapEff', 'CapPrm', 'CapBnd', 'Seccomp'):\n"
        "    seen[name] = int(status[name], 16)\n"
        f"with open('{RUN}/later', 'w') as file: file.write('#!/bin/sh')\n"
        f"os.chmod('{RUN}/later', 0o6777)\n"
        f"seen['made'] = bool(os.stat('{RUN}/later').st_mode & 0o4000)\n"
    )
    assert seen.pop("programs") > 0, "the image has set-uid programs to try this with"
    assert seen.pop("made") is True
    assert (seen.pop("NoNewPrivs"), seen.pop("Seccomp")) == (1, 2)
    assert {seen.pop(name) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert not any(how is True for how in seen.values()), seen
    (path,) = cage.out.iterdir()
    left = (path / "later").stat()
    assert left.st_uid == os.getuid()
    assert stat.S_IMODE(left.st_mode) & 0o7002 == 0


def test_the_kernel_refuses_what_jobs_have_no_business_with(cage: Cage) -> None:
    seen = cage.tries(
        "calls('mount', b'none', b'/tmp', b'tmpfs', 0, None)\n"
        "calls('umount2', b'/proc', 0)\n"
        "calls('unshare', 0x10000000)\n"  # CLONE_NEWUSER, the way to capabilities of one's own
        "calls('setns', 0, 0)\n"
        "calls('chroot', b'/tmp')\n"
        "calls('swapon', b'/tmp', 0)\n"
        "calls('reboot', 0)\n"
        "calls('sethostname', b'x', 1)\n"
        "calls('open_by_handle_at', 0, ctypes.create_string_buffer(64), 0)\n"
        "tries('char device', lambda: os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1)))\n"
        "tries('block device', lambda: os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0)))\n"
        "tries('clock', lambda: __import__('time').clock_settime(0, 1.0))\n"
        "tries('signal', lambda: os.kill(-1, 0) or os.kill(2**22 - 1, 0))\n"
        "if os.uname().machine == 'x86_64':\n"
        "    syscall('kexec_load', 246, 0, 0, 0, 0)\n"
        "    syscall('init_module', 175, 0, 0, b'')\n"
        "    syscall('bpf', 321, 0, 0, 0)\n"
        "    syscall('keyctl', 250, 0, 0, 0)\n"
        "    syscall('perf_event_open', 298, 0, 0, 0, 0, 0)\n"
        "tries('init of another', lambda: os.listdir('/proc/1/root/../host'))\n"
        "seen['processes'] = [pid for pid in os.listdir('/proc') if pid.isdigit()]\n"
    )
    assert len(seen.pop("processes")) <= 3  # the init, the job; none of the host's
    assert len(seen) >= 14
    assert {what for what, how in seen.items() if how is True} == set()


def test_another_runs_directory_is_not_in_sight(cage: Cage) -> None:
    other = runs.create(cage.out, SPEC)
    (other.path / "secret").write_text(SECRET)
    seen = cage.tries(
        "where = []\n"
        "for top in ('/run', '/tmp', '/var', '/home', '/root', '/mnt', '/media', '/srv'):\n"
        "    for parent, folders, names in os.walk(top):\n"
        f"        where += [parent for name in (*folders, *names) if name in ('secret',"
        f" {other.path.name!r})]\n"
        "seen['found'] = where\n"
        f"seen['beside'] = sorted(os.listdir('{RUN}/..'))\n"
        f"tries('path', lambda: open({str(other.path / 'secret')!r}))\n"
        f"tries('canary', lambda: open({str(cage.canary / 'secret')!r}))\n"
    )
    assert seen == {
        "found": [], "beside": ["run", "store"], "path": "ENOENT", "canary": "ENOENT",
    }  # fmt: skip


def test_a_fork_bomb_meets_its_limit(cage: Cage) -> None:
    bomb = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    record, _ = cage.run(bomb, Limits(pids=64, memory=512 * MIB), timeout_s=4)
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("timeout: over 4 s")
    met = "; it met the limit of 64 processes and threads (--limits pids=)"
    if Path("/sys/fs/cgroup/pids").is_dir() or Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        assert record.reason.endswith(met)


def test_a_memory_bomb_ends_itself_alone(cage: Cage) -> None:
    bomb = "x = []\nwhile True: x.append(bytearray(2**24))"
    record, _ = cage.run(bomb, Limits(memory=128 * MIB))
    assert record.reason == "out of memory: over 128 MiB (--limits memory=)"


def test_a_childs_memory_bomb_is_told_too(cage: Cage) -> None:
    """A step of a job is a child of it: the job goes on, and ends with an exit code of its own."""
    bomb = "x = []\\nwhile True: x.append(bytearray(2**24))"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '{bomb}'])"
    record, _ = cage.run(code, Limits(memory=128 * MIB))
    assert record.reason == "out of memory: over 128 MiB (--limits memory=)"


def filling(path: str, chunk: int = MIB) -> str:
    """A program that writes to ``path`` until it is stopped or refused."""
    return f"""
import os
number, name = 0, {path!r}
while True:
    with open(name.format(number), 'ab', buffering=0) as file:
        file.write(bytes({chunk}))
    number += 1
"""


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (f"{RUN}/endless", "the run directory"),
        (f"{RUN}/many-{{}}", "the run directory"),
        (f"{RUN}/scratch-{{}}", "the run directory"),
        (f"{STORE}/endless-{{}}", "the artefact store"),
    ],
)
def test_what_fills_the_disk_is_stopped_at_its_budget(cage: Cage, path: str, where: str) -> None:
    record, published = cage.run(filling(path), Limits(disk=64 * MIB, memory=512 * MIB))
    assert record.reason is not None
    want = f"disk budget: over 64 MiB, most of it in {where} (--limits disk=)"
    assert record.reason.startswith(want)
    assert untrusted.measure(published).bytes <= 65 * MIB
    if where == "the run directory":
        assert "; removed the file" in record.reason
    assert (published / "spec.json").is_file()


def test_a_file_over_its_limit_is_cut_short(cage: Cage) -> None:
    """Python is told by an error, other programs by a signal that ends them."""
    record, path = cage.run(filling(f"{RUN}/big"), Limits(file=4 * MIB, disk=64 * MIB))
    assert record.reason == "exit code 1: 'big' met the limit of 4 MiB (--limits file=)"
    assert (path / "big").stat().st_size == 4 * MIB
    assert "File too large" in (path / "job.log").read_text()
    code = f"""
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execvp('sh', ['sh', '-c', 'exec cat /dev/zero > {RUN}/big'])
"""
    record, path = cage.run(code, Limits(file=4 * MIB, disk=64 * MIB))
    assert record.reason == "signal: SIGXFSZ: a file over 4 MiB (--limits file=)"
    assert (path / "big").stat().st_size == 4 * MIB


def test_files_without_number_are_stopped(cage: Cage) -> None:
    code = f"import os, itertools\nfor number in itertools.count(): os.mknod('{RUN}/%d' % number)"
    record, path = cage.run(code, Limits(names=2_000))
    assert record.reason is not None
    assert record.reason.startswith("disk budget: more than 2000 files in the run")
    assert len(list(path.iterdir())) <= 4


def test_tmp_is_bounded_and_is_memory(cage: Cage) -> None:
    record, path = cage.run(filling("/tmp/endless"), Limits(tmp=8 * MIB, memory=256 * MIB))
    assert record.reason == "exit code 1"
    assert "No space left on device" in (path / runs.LOG).read_text()
    record, _ = cage.run(filling("/tmp/endless"), Limits(tmp=2**30, memory=128 * MIB))
    assert record.reason == "out of memory: over 128 MiB (--limits memory=)"
    record, path = cage.run(filling("/dev/shm/endless"))
    assert "No space left on device" in (path / runs.LOG).read_text()


@pytest.mark.parametrize("end", ["\\n", ""])
def test_talk_without_end_is_stopped_at_the_disk_budget(cage: Cage, end: str) -> None:
    code = f"while True: print('x' * 1000, end='{end}')"
    record, path = cage.run(code, Limits(disk=8 * MIB))
    assert record.reason is not None and record.reason.startswith("disk budget: over 8 MiB")
    assert launch.log_tail(path)


def test_a_budget_cannot_be_hidden_from(cage: Cage) -> None:
    code = f"""
import os, time
os.chdir('{RUN}')
for _ in range(40):
    os.mkdir('d' * 200)
    os.chdir('d' * 200)
time.sleep(60)
"""
    record, path = cage.run(code)
    assert record.reason is not None
    assert record.reason.startswith("disk budget: what the run holds is hidden: ")
    assert not [one for one in path.iterdir() if one.name.startswith("d")]
