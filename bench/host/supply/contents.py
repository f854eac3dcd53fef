"""What an image says is in it: asked in a container of it, without network, and validated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import JobFailed
from bench.host import ask as asking
from bench.host import verify
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
    program = Path(inventory.__file__).read_bytes()
    answer = asking.ask(
        _InventoryEngine(client, image),
        "inventory",
        {_PROGRAM: program},
        _SAID,
        folder=folder,
        largest=_LARGEST,
        timeout_s=timeout_s,
        kept_lines=_TAIL,
        progress=progress,
    )
    try:
        return Contents.model_validate_json(answer.content or b"")
    except ValidationError as error:
        shown = "".join(f"\n  | {line}" for line in answer.tail)
        raise JobFailed(
            f"the image did not tell what is in it: {answer.reason}{shown}",
            hint="is it one that `invoke build-image` made? it needs a Python of its own",
        ) from error
