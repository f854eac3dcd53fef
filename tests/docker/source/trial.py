"""Builds by docker/Dockerfile of the small project, through the code that users' builds take."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.errors import JobFailed
from bench.host import buildx, image, mirrors, verify
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Llvm, Pins, Source
from bench.host.recipe import BuildRequest
from bench.host.reproduce import rebuild
from bench.host.supply import building, contents, obtain, sbom
from tests.docker.source import llvm_tarball
from tests.docker.source.helpers import ROOT
from tests.docker.source.llvm_tarball import Archive
from tests.docker.source.project import HOST, Project

if TYPE_CHECKING:
    from docker import DockerClient

PROFILE = "cpu-source"
VERSION = "0.23.0"

# The real one takes minutes for packages that the small project does not need; this one makes the
# environment and says of the rest that it is there, since a later step compares versions.
INSTALLER = """
import pathlib, subprocess, sys
class Fault(Exception):
    output = ()
def install(venv, *_):
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    site = next(pathlib.Path(venv, "lib").glob("python3*")) / "site-packages"
    for name, version in VERSIONS.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        (folder / "METADATA").write_text(text)
"""


# Between two attempts at a transfer the first pause is this long, for servers on one's own machine.
PAUSE = "    pause_s: float = {}"


def copy_of_checkout(folder: Path, pins: Pins) -> Path:
    """The project's own files, where they can be changed: quick to install and to try again."""
    root = folder / "project"
    for name in ("bench", "cmake", "docker"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dockerignore", "pyproject.toml"):
        shutil.copy2(ROOT / name, root)
    patience = root / "bench" / "build" / "fetch" / "patience.py"
    assert PAUSE.format(2.0) in patience.read_text(), "the pause is somewhere else"
    patience.write_text(patience.read_text().replace(PAUSE.format(2.0), PAUSE.format(0.2)))
    versions = {"torch": pins.versions.torch, "apache_tvm_ffi": pins.sources[VERSION].tvm_ffi}
    (root / "bench" / "host" / "venv.py").write_text(f"VERSIONS = {versions!r}\n{INSTALLER}")
    return root


def address(archive: Archive) -> str:
    """The public address of an archive, which only a mirror can serve here."""
    return f"{HOST}/{path_of(archive)}"


def path_of(archive: Archive) -> str:
    """Where a forge has an archive."""
    return f"llvm/releases/download/llvmorg-{archive.version}/{archive.path.name}"


def pins_for(pins: Pins, project: Project, archive: Archive) -> Pins:
    """The real pins, but for the sources and the LLVM of one profile."""
    source = Source(
        url=project.url,
        commit=project.commit,
        source_date_epoch=pins.sources[VERSION].source_date_epoch,
        tvm_ffi=pins.sources[VERSION].tvm_ffi,
        gitlinks=dict(project.gitlinks),
    )
    llvm = Llvm(
        url=address(archive),
        sha256=archive.sha256,
        folder=archive.folder,
        apt=llvm_tarball.NEEDS,
    )
    profile = pins.profile(PROFILE).model_copy(
        update={"tvm": VERSION, "llvm": archive.version, "build_type": "Debug"}
    )
    return pins.model_copy(
        update={
            "sources": {VERSION: source},
            "llvm": {archive.version: llvm},
            "profiles": {**pins.profiles, PROFILE: profile},
        }
    )


@dataclass(frozen=True)
class Outcome:
    """A build's end: its whole log, and the failure as users are shown it."""

    log: str
    failure: JobFailed | None

    @property
    def told(self) -> str:
        """Message and hint of the failure."""
        assert self.failure is not None, self.log[-3000:]
        return f"{self.failure.message}\n{self.failure.hint}"

    def state(self, step: str) -> str:
        """CACHED or DONE, of the one step whose name has this in it."""
        found = re.findall(rf"^#(\d+) \[.*{re.escape(step)}.*$", self.log, re.MULTILINE)
        assert len(set(found)) == 1, f"{step}: {found}"
        states = re.findall(rf"^#{found[0]} (CACHED|DONE|ERROR|CANCELED)\b", self.log, re.MULTILINE)
        assert states, self.log[-3000:]
        return str(states[-1])


@dataclass(frozen=True)
class Trial:
    """Everything that a build of the small project needs; ``mirror`` stands for github.com."""

    endpoint: Endpoint
    client: DockerClient
    root: Path
    pins: Pins
    base: str
    mirror: str
    environ: Mapping[str, str]

    def but(self, **changes: object) -> Trial:
        """The same with other settings."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def with_pins(self, project: Project, archive: Archive) -> Trial:
        """The same of other sources."""
        return dataclasses.replace(self, pins=pins_for(self.pins, project, archive))

    def request(self, **more: object) -> BuildRequest:
        """What is asked for, as `invoke build-image` does."""
        chosen = mirrors.load([f"github={self.mirror}"], {"HOME": str(self.root)})
        wanted = BuildRequest(profile=PROFILE, base=self.base, mirrors=chosen)
        return dataclasses.replace(wanted, **more)  # type: ignore[arg-type] # by name

    def plan(self, **request: object) -> image.BuildPlan:
        """The plan of a build, as `invoke build-image` makes it."""
        return image.plan(
            self.request(**request),
            self.pins,
            self.client,
            root=self.root,
            environ=self.environ,
        )

    def run(self, target: str, output: str = "type=cacheonly", **request: object) -> Outcome:
        """Build up to a stage; as it is called here, nothing is kept but the build cache.

        By the same call as `invoke build-image`, as far as the program that builds: that one's
        whole output is kept here, of which users see some.
        """
        plan = self.plan(**request)
        words = ["--target", target, "--output", output, plan.argv[-1]]
        argv = [word for word in plan.argv[:-1] if word != "--load"] + words
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(buildx, "run", _recorded)
            try:
                image.build(
                    dataclasses.replace(plan, argv=tuple(argv)),
                    self.pins,
                    self.endpoint,
                    self.client,
                    environ=self.environ,
                )
            except _Ended as ended:
                return ended.outcome
        raise AssertionError("nothing was built")

    def again(self, made: image.Image, folder: Path, **request: object) -> rebuild.Outcome:
        """Build an image again as `verify-image --rebuild` does; ``folder`` gets the record."""
        return rebuild.rebuild(
            made,
            self.request(**request),
            self.pins,
            self.endpoint,
            self.client,
            environ=self.environ,
            root=self.root,
            folder=folder,
        )

    def bill(self, made: image.Image, folder: Path) -> sbom.Bill:
        """The bill of materials of an image that was built so."""
        listed = contents.ask(self.client, made.id, folder=folder)
        reference = obtain.reference(self.client.images.get(made.id), made.tag)
        return sbom.Bill(reference, sbom.created(""), listed, self.pins)

    def image(self, beside: Path | None = None, /, **request: object) -> image.Image:
        """Build the whole image and tag it, by the same call as `invoke build-image`.

        All but the question whether a GPT runs in it: the small project can compile none. Its
        provenance is kept in the folder ``beside``, where one is given.
        """
        planned = self.plan(**request)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("verify", "write", "demand"):
                patch.setattr(verify, name, lambda *_, **__: None)
            if beside is None:
                return image.build(
                    planned, self.pins, self.endpoint, self.client, environ=self.environ
                )
            return building.build(
                planned,
                self.pins,
                self.endpoint,
                self.client,
                environ=self.environ,
                folder=beside,
            )


class _Ended(Exception):
    """A build has come to its end, well or not."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


def _recorded(
    argv: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    on_step: buildx.OnStep,
    masked: Iterable[str] = (),
) -> None:
    """Stands for ``buildx.run``, and keeps everything that was said."""
    done = subprocess.run(
        argv,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    words = list(masked)
    lines = [buildx.mask(line, words) for line in done.stdout.splitlines()]
    failure = buildx.failure(done.returncode, lines) if done.returncode != 0 else None
    raise _Ended(Outcome(done.stdout, failure))


def settings(gateway: str, **more: str) -> dict[str, str]:
    """The host's own environment, in which the tests' servers are asked directly."""
    around = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy", ""), gateway]
    return {**os.environ, "NO_PROXY": ",".join(filter(None, around)), **more}
