"""Whose a job's files are, under engines of every kind: the caller's, and nobody's else.

The image is a shell and three programs of this machine: who one is needs no more.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.errors import UsageFault
from bench.host.engine.base import Launch
from bench.host.engine.docker import UNPRIVILEGED_UID, DockerEngine
from bench.host.engine.endpoint import Endpoint, connect
from bench.host.engine.limits import Limits
from tests.conftest import cannot_run
from tests.docker import engines

if TYPE_CHECKING:
    from docker import DockerClient

PROGRAMS = ("/bin/sh", "/usr/bin/id", "/usr/bin/touch", "/usr/bin/chmod")
PROBE = """
id -u
while read -r line; do echo "$line"; done </proc/self/uid_map
touch /run/gpt-frontend/run/made /run/gpt-frontend/store/made
chmod 4777 /run/gpt-frontend/run/made
touch /etc/made 2>/dev/null || echo refused
"""


def tiny() -> bytes:
    """An archive of the programs and the libraries that they are linked with."""
    found = set(PROGRAMS)
    for program in PROGRAMS:
        linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        found |= set(re.findall(r"(/\S+) \(0x", linked))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for path in sorted(found):
            tar.add(path, path.lstrip("/"))
    return archive.getvalue()


@pytest.fixture(scope="module", params=["rootful", "remapped", "rootless"])
def engine(request: pytest.FixtureRequest, endpoint: Endpoint) -> Iterator[tuple[str, Endpoint]]:
    """An engine of each kind. Those that are started here need root."""
    if request.param == "rootful":
        yield "rootful", endpoint
        return
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        cannot_run("starting an engine needs root and dockerd")
    # Not pytest's folder: an engine that is not root cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="gpt-engine-"))
    folder.chmod(0o755)
    process = engines.start(request.param, folder)
    own = Endpoint(f"unix://{folder}/socket", "test")
    try:
        for _ in range(300):
            with contextlib.suppress(UsageFault):
                connect(own, {}).close()
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield request.param, own
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder)


@pytest.fixture
def image(engine: tuple[str, Endpoint]) -> Iterator[tuple[DockerClient, str]]:
    client = connect(engine[1], {})
    made = client.api.import_image_from_data(tiny(), repository="gpt-identity", tag="test")
    assert "status" in made
    yield client, "gpt-identity:test"
    client.images.remove("gpt-identity:test", force=True)
    client.close()


@pytest.fixture
def places() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gpt-job-"))
    folder.chmod(0o755)
    for name in ("run", "store"):
        (folder / name).mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("caller", ["root", "sudo"])
def test_what_a_job_writes_is_the_callers(
    engine: tuple[str, Endpoint],
    image: tuple[DockerClient, str],
    places: Path,
    caller: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = engine[0]
    monkeypatch.delenv("SUDO_UID", raising=False)
    me = os.getuid()
    if caller == "sudo":
        if me != 0:
            cannot_run("nobody but root can have been called by sudo")
        monkeypatch.setenv("SUDO_UID", "4321")
        monkeypatch.setenv("SUDO_GID", "4321")
    want = 4321 if caller == "sudo" else me
    inside = want or UNPRIVILEGED_UID
    if kind == "rootless":  # whose engine it is, is the caller; its root stands for them
        want, inside = engines.UID, 0
        for name in ("run", "store"):
            os.chown(places / name, want, want)
    shut_in = DockerEngine(*image)
    shut_in.command = ("/bin/sh", "-c", PROBE)
    lines: list[str] = []
    run = places / "run"
    at = Launch(f"identity-{os.urandom(4).hex()}", run, places / "store", 60, limits=Limits())
    assert shut_in.run(at, lines.append).clean, lines
    notes = [line for line in lines if line.startswith("note: ")]
    uid, *mapping, last = [line for line in lines if line not in notes]
    assert (int(uid), last) == (inside, "refused")
    # Out of the remapped namespace; in the rootless engine's own.
    first = mapping[0].split()
    assert first[:2] == (["0", str(engines.UID)] if kind == "rootless" else ["0", "0"])
    for path in (run, run / "made"):
        assert path.stat().st_uid == want, kind
    if want != engines.UID and os.getuid() == 0 and caller == "root":
        assert stat.S_IMODE((run / "made").stat().st_mode) & stat.S_ISUID == 0
    # A rootless engine of cgroups v1 can limit neither, and says so.
    info = image[0].info()
    assert ("note: this engine cannot limit memory" in notes) == (info["MemoryLimit"] is False)


def test_a_limit_that_an_engine_cannot_keep_is_refused_by_it(
    engine: tuple[str, Endpoint], image: tuple[DockerClient, str], places: Path
) -> None:
    info = image[0].info()
    if info["MemoryLimit"]:
        assert engine[0] != "rootless" or info["CgroupVersion"] == "2"
        return
    limits = Limits(memory=2**30)
    at = Launch("refused", places / "run", places / "store", 60, limits=limits)
    with pytest.raises(UsageFault, match="this engine cannot limit memory"):
        DockerEngine(*image).run(at, lambda _: None)
