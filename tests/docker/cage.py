"""Programs run as jobs in a real container, and what of the host must stay as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host import launch, owner, runs, store
from bench.host.engine.docker import OWNER_LABEL, RUN_LABEL, DockerEngine
from bench.host.engine.limits import Limits
from bench.host.image import Image
from bench.record import ImageRef, JobSpec, RunRecord

if TYPE_CHECKING:
    from docker import DockerClient

MIB = 2**20
RUN = "/run/gpt-frontend/run"
STORE = "/run/gpt-frontend/store"
SPEC = JobSpec(model="gpt-nano", backends=("tvm-none",), timeout_s=60)
SECRET = "nobody's business"

# For every attempt: True where it worked, else the name of the error.
TRIES = """
import ctypes, errno, json, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
seen = {}
def tries(name, action):
    try:
        action()
        seen[name] = True
    except OSError as error:
        seen[name] = errno.errorcode.get(error.errno, type(error).__name__)
    except Exception as error:
        seen[name] = type(error).__name__
def calls(name, *arguments):
    def action():
        ctypes.set_errno(0)
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    tries(name, action)
def syscall(name, number, *arguments):
    def action():
        ctypes.set_errno(0)
        if libc.syscall(number, *arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    tries(name, action)
"""
TOLD = "\nprint(json.dumps(seen), flush=True)\n"


class Cage:
    """Runs programs as jobs, through the very flow that `invoke bench` takes."""

    def __init__(self, client: DockerClient, image: Image, root: Path) -> None:
        self.client = client
        self.image = image
        self.out = root / "out"
        self.store = store.Store(root / "store", limit_bytes=2**30)
        self.store.root.mkdir()
        self.canary = root / "canary"
        self.canary.mkdir()
        (self.canary / "secret").write_text(SECRET)
        (self.canary / "secret").chmod(0o644)

    def run(
        self, code: str, limits: Limits | None = None, timeout_s: float = 60
    ) -> tuple[RunRecord, Path]:
        engine = DockerEngine(self.client, self.image.id)
        engine.command = ("python", "-c", code)
        spec = SPEC.model_copy(update={"timeout_s": timeout_s})
        image = ImageRef(id=self.image.id, digest=None, tag=self.image.tag, labels={})
        limits = limits or Limits(memory=512 * MIB, disk=256 * MIB, pids=128)
        return launch.run(spec, engine, image, self.out, self.store, limits=limits)

    def tries(self, code: str) -> dict[str, Any]:
        _, path = self.run(TRIES + code + TOLD)
        told: dict[str, Any] = json.loads((path / runs.LOG).read_text().splitlines()[-1])
        return told


def state(cage: Cage) -> dict[str, Any]:
    """What of the host must be the same after a job as before it."""
    watched = [cage.canary, *cage.canary.iterdir(), *map(Path, ("/etc/passwd", "/etc/shadow"))]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    ours = cage.client.containers.list(all=True, filters={"label": RUN_LABEL})
    return {
        "files": {
            str(path): (found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns)
            for path in watched
            for found in [path.lstat()]
        },
        "secret": (cage.canary / "secret").read_text(),
        "mounts": [line for line in mounts if "/docker" not in line and "containerd" not in line],
        "containers": [one.name for one in ours if one.labels[OWNER_LABEL] == owner.mine()],
    }
