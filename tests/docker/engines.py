"""Engines of the kinds that few machines have: rootless, and with remapped user namespaces.

``python -m tests.docker.engines rootless|remapped FOLDER`` runs dockerd in a mount namespace of
its own until it is ended. The machine's own files of subordinate ids stay as they are. Root only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

UID = 1000  # of the rootless engine's owner
FIRST_SUBUID = 200_000
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000

# No network of their own, nothing shared with another engine.
_COMMON = {"bridge": "none", "iptables": False, "ip6tables": False, "userland-proxy": False}

_PRIVATE = "mount --make-rprivate / && mount -t tmpfs none /run"
_REMAPPED = """
mkdir upper work && mount -t overlay overlay -o lowerdir=/etc,upperdir=upper,workdir=work /etc
for file in subuid subgid; do
    printf 'nobody:%s:65536\\nnogroup:%s:65536\\n' {first} {first} >/etc/$file
done
"""


def start(kind: str, folder: Path) -> subprocess.Popen[bytes]:
    """An engine with its socket at ``folder``/socket, when it answers; SIGTERM ends it."""
    log = (folder / "log").open("wb")
    return subprocess.Popen(
        [sys.executable, "-m", "tests.docker.engines", kind, str(folder)], stdout=log, stderr=log
    )


def main(kind: str, folder: Path) -> int:
    (folder / "daemon.json").write_text(json.dumps(_config(kind, folder)))
    command = f"exec dockerd --config-file {folder}/daemon.json"
    os.chdir(folder)
    if kind == "remapped":
        private = f"set -e; {_PRIVATE}; {_REMAPPED.format(first=FIRST_SUBUID)} {command}"
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", private])
    return _rootless(folder, f"set -e; {_PRIVATE}; {command} --rootless")


def _config(kind: str, folder: Path) -> dict[str, object]:
    return {
        **_COMMON,
        "hosts": [f"unix://{folder}/socket"],
        "data-root": f"{folder}/data",
        "exec-root": f"{folder}/exec",
        "pidfile": f"{folder}/pid",
        **(
            {"userns-remap": "nobody:nogroup"}
            if kind == "remapped"
            else {"storage-driver": "vfs"}  # overlays in a user namespace are not everywhere
        ),
    }


def _rootless(folder: Path, script: str) -> int:
    """What rootlesskit does before it starts the daemon, without its network."""
    (folder / "bin").mkdir()
    proxy = folder / "bin" / "rootlesskit-docker-proxy"  # looked for, never used
    proxy.write_text("#!/bin/sh\nexit 1\n")
    proxy.chmod(0o755)
    os.chown(folder, UID, UID)
    ready, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET) != 0:
            os._exit(os.EX_OSERR)
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        os.setgid(0)
        os.setuid(0)
        environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "ROOTLESSKIT_STATE_DIR": str(folder),
            "ROOTLESSKIT_PARENT_EUID": str(UID),
            "ROOTLESSKIT_PARENT_EGID": str(UID),
        }
        os.execve("/bin/sh", ["sh", "-c", script], environment)
    os.close(ready[1])
    if os.read(ready[0], 1):
        for name in ("uid_map", "gid_map"):
            text = f"0 {UID} 1\n1 {FIRST_SUBUID} 65536\n"
            Path(f"/proc/{child}/{name}").write_text(text)
        os.write(mapped[1], b"x")

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    signal.signal(signal.SIGTERM, forward)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
