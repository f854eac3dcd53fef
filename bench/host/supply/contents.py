"""What an image says is in it: asked in a container of it, without network, and validated."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import JobFailed, UsageFault
from bench.host import untrusted, verify
from bench.host.engine.base import Launch
from bench.host.engine.docker import DockerEngine
from bench.host.supply import inventory

if TYPE_CHECKING:
    from docker import DockerClient

TIMEOUT_S = 600.0
_PROGRAM = "inventory.py"
_SAID = "inventory.json"
_LARGEST = 2**26
_TAIL = 10


class _Listed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Package(_Listed):
    """A package of dpkg's; ``licences`` as Debian spells them, empty where it states none."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    homepage: str = ""
    licences: tuple[str, ...] = ()


class Distribution(_Listed):
    """A Python package, with each of the three places where its licence may stand."""

    name: str
    version: str
    expression: str = ""
    licence: str = ""
    classifiers: tuple[str, ...] = ()
    homepage: str = ""


class Repository(_Listed):
    """A private repository in the image."""

    name: str
    commit: str


class Contents(_Listed):
    """All that ``inventory.py`` tells. ``built`` are the facts of a build from source."""

    os_release: dict[str, str]
    packages: tuple[Package, ...]
    distributions: tuple[Distribution, ...]
    repositories: tuple[Repository, ...] = ()
    built: dict[str, Any] | None = None
    llvm: str | None = None
    cuda: str | None = None
    toolkit: bool = False


class _InventoryEngine(DockerEngine):
    """The engine of the jobs, with the inventory for a job."""

    _folder = PurePosixPath(DockerEngine.command[-1]).parent
    command = ("python", str(_folder / _PROGRAM), str(_folder / _SAID))


def ask(
    client: DockerClient,
    image: str,
    *,
    folder: Path = verify.FOLDER,
    progress: Callable[[str], None] = lambda _: None,
    timeout_s: float = TIMEOUT_S,
) -> Contents:
    """What is in the image of this id.

    Raises:
        UsageFault: the engine cannot start it, or ``folder`` cannot be written.
        JobFailed: it ran and did not tell.
    """
    tail: list[str] = []

    def on_line(line: str) -> None:
        tail.append(line)
        del tail[:-_TAIL]
        progress(line)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".asked-", dir=folder.resolve())
    except OSError as error:
        raise UsageFault(
            f"cannot write {folder}: {error.strerror or error}",
            hint="make the folder writable for you",
        ) from error
    with scratch as name:
        lent, store = Path(name, "run"), Path(name, "store")
        lent.mkdir()
        store.mkdir()
        shutil.copyfile(inventory.__file__, lent / _PROGRAM)
        os.chmod(lent / _PROGRAM, 0o644)
        launch = Launch(
            run_id=f"inventory-{secrets.token_hex(6)}",
            run_dir=lent,
            store=store,
            timeout_s=timeout_s,
        )
        ending = _InventoryEngine(client, image).run(launch, on_line)
        try:
            return Contents.model_validate_json(untrusted.read(lent / _SAID, _LARGEST))
        except (OSError, ValidationError) as error:
            shown = "".join(f"\n  | {line}" for line in tail)
            raise JobFailed(
                f"the image did not tell what is in it: {ending.reason()}{shown}",
                hint="is it one that `invoke build-image` made? it needs a Python of its own",
            ) from error
