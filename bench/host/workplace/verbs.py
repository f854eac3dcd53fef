"""What `invoke devcontainer` and `invoke shell` do."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageFault
from bench.host import caller, image, known_hosts, mirrors, pins, recipe, toolchain
from bench.host.console import ERR, OUT, working
from bench.host.engine import endpoint
from bench.host.engine.endpoint import Endpoint
from bench.host.workplace import choice, container, lent, person, volumes
from bench.host.workplace import image as workplaces
from bench.host.workplace.choice import Choice
from bench.host.workplace.container import Description
from bench.host.workplace.image import Workplace

ROOT = image.ROOT
FOLDER = Path(".devcontainer")
DESCRIPTION = FOLDER / "devcontainer.json"
LENT = FOLDER / "host"
TREE = "/src/tvm"


@dataclass(frozen=True)
class Ready:
    """All that a container needs is there."""

    where: Endpoint
    made: Workplace
    description: Description
    gpu: bool


def devcontainer(
    asked: Choice | None,
    *,
    jobs: int | None,
    mirror_folder: Path | None,
    root: Path = ROOT,
) -> None:
    """Make what .devcontainer/devcontainer.json names; ``asked`` None: as the last time."""
    ready = prepare(asked, keep=True, jobs=jobs, mirror_folder=mirror_folder, root=root)
    word = "built" if ready.made.built else "found, unchanged"
    OUT.print(f"{ready.made.tag} {word}", markup=False, soft_wrap=True)
    OUT.print(
        "reopen the folder in its container: VS Code, `Dev Containers: Reopen in Container`; "
        "`devcontainer up`; or `invoke shell`",
        markup=False,
        soft_wrap=True,
    )


def shell(profile: str | None, base: str | None, command: str | None, *, root: Path = ROOT) -> None:
    """Replace this process by a shell in a container like the editor's.

    Raises:
        UsageFault: there is no terminal, no engine, or something else is missing.
    """
    if command is None and not sys.stdin.isatty():
        raise UsageFault(
            "a shell needs a terminal",
            hint="run it from an interactive session; or one command: --command 'pytest -k record'",
        )
    if shutil.which("docker") is None:
        raise UsageFault("the docker program is not installed", hint="apt-get install docker.io")
    asked = choice.load(root / LENT)
    if profile or base:
        named = {"profile": profile or asked.profile, "base": base or asked.base}
        # Another profile's build type says nothing of this one.
        other = {"build_type": None, "tvm_ref": None, "cuda_from_wheels": False}
        asked = asked.model_copy(update={**named, **other})
    ready = prepare(asked, keep=False, root=root)
    words = ["bash"] if command is None else ["bash", "-c", command]
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = ready.description.command(words, terminal=terminal, gpu=ready.gpu)
    sys.stdout.flush()
    os.execvpe("docker", argv, ready.where.cli_environ(os.environ))


def prepare(
    asked: Choice | None,
    *,
    keep: bool,
    jobs: int | None = None,
    mirror_folder: Path | None = None,
    root: Path = ROOT,
) -> Ready:
    """The image, the volume for TVM's tree, and what the host lends.

    Raises:
        UsageFault, JobFailed: one of them is not to be had.
    """
    folder = root / LENT
    wanted = choice.load(folder) if asked is None else asked
    pinned = pins.load()
    request = wanted.request(
        pinned, mirrors.load((), os.environ), jobs=jobs, mirror_folder=mirror_folder
    )
    # What cannot work is refused on a machine without an engine too.
    toolchain.check(recipe.toolchain_of(request, str(request.profile), pinned, request.base))
    if wanted.private_repo is None and wanted.private_ref is not None:
        raise UsageFault("--private-ref needs --private-repo", hint="name the repository")
    where = endpoint.find_endpoint(os.environ)
    client = endpoint.connect(where, os.environ)
    with endpoint.engine_errors():
        info = client.info()
    who = person.of_caller(info.get("SecurityOptions") or [], os.environ)
    if wanted.private_repo is not None:
        known_hosts.for_repository(wanted.private_repo, who.environ)
    description = container.load(root / DESCRIPTION, root, who.environ)
    folder.mkdir(mode=0o700, exist_ok=True)
    for note in lent.lay_out(folder, root, who.environ):
        ERR.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    if keep or not (folder / choice.FILE).exists():
        choice.keep(wanted, folder)
    if os.getuid() != who.owner[0]:
        caller.give(folder, who.owner)
    with working("workplace") as say:
        made = workplaces.ensure(request, who, pinned, where, client, say, root)
    with endpoint.engine_errors():
        volumes.lay_out(client, description.volume_at(TREE), made.tree)
    return Ready(where, made, description, "nvidia" in (info.get("Runtimes") or {}))
