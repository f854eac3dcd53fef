"""What a build would take that nothing locks: refused by a frozen build, as each is in CI.

Locked is what the same command gives the same bytes of tomorrow: a base by its digest, or one made
here, whose id is part of the content id; sources by commit; archives by checksum; Python packages
by hash; Debian packages by the manifest of the profile's image on its pinned base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import JobFailed, UsageFault
from bench.host.base_image import LABEL as MADE_HERE
from bench.host.lock import agreement, packages
from bench.host.pins import Pins
from bench.host.recipe import RELEASE, BuildRequest
from bench.host.web import CannotAsk

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

    from bench.host.image import BuildPlan

COMMIT = re.compile(r"[0-9a-f]{40}")
# As the engine calls a machine that Debian calls so.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
NO = ("", "0", "false", "no", "off")


def wanted(frozen: bool, no_frozen: bool, environ: Mapping[str, str]) -> bool:
    """Whether a build is to be frozen: as said, else where ``CI`` is set, as every CI does.

    Raises:
        UsageFault: both were said.
    """
    if frozen and no_frozen:
        raise UsageFault("--frozen and --no-frozen exclude each other", hint="leave one out")
    return frozen or (not no_frozen and environ.get("CI", "").lower() not in NO)


def check_request(request: BuildRequest, pins: Pins, locks: Path) -> None:
    """Refuse what is not locked as far as the request tells; before an engine is asked.

    Raises:
        UsageFault: names each thing, with what locks it.
    """
    found = [f"{one}: invoke lock" for one in agreement.drift(pins, locks)]
    ref = request.tvm_ref
    if ref and not COMMIT.fullmatch(ref) and not RELEASE.fullmatch(ref):
        found.append(
            f"--tvm-ref {ref} may be another commit tomorrow: name the commit, as "
            "`git ls-remote` of the repository tells it"
        )
    if request.private_repo and not COMMIT.fullmatch(request.private_ref or ""):
        said = request.private_ref or "HEAD"
        found.append(
            f"the private repository is asked for by {said}: --private-ref with the whole commit"
        )
    _refuse(found)


def check_plan(plan: BuildPlan, client: DockerClient, locks: Path) -> list[str]:
    """Refuse a base or packages that are not locked; gives what a user should know of the rest.

    Without a manifest of the packages it refuses only where ``request.frozen_packages`` is set:
    elsewhere a release of Debian's would stop everybody's CI.

    Raises:
        UsageFault: names each thing, with what locks it.
    """
    base = plan.base
    if base.origin != "pinned" and "@sha256:" not in base.name and not _made_here(base.ref, client):
        _refuse(
            [
                f"the base {base.name} is named by a tag, which may be another image tomorrow: "
                f"--base {base.name}@{base.id}"
            ]
        )
    machine = str(client.info().get("Architecture", ""))
    architecture = MACHINES.get(machine, machine)
    path = packages.path_of(plan.profile, architecture, locks)
    manifest = packages.read(path, architecture)
    if manifest is not None and manifest.base == base.name:
        return []
    if base.origin == "pinned" and plan.request.frozen_packages:
        _refuse(
            [
                f"the Debian packages of {plan.profile} on {base.name.partition('@')[0]}: "
                f"docker/locks/{path.name} "
                f"{'is of another base' if manifest else 'is not there'}: build once with "
                "--no-frozen, then invoke lock --only apt"
            ]
        )
    return [
        f"frozen: {base.name} is held by its digest; the Debian packages on it are those of "
        "today's mirror, since no manifest is locked for it (docs/locking.md)"
    ]


def check_packages(client: DockerClient, reference: str, plan: BuildPlan, locks: Path) -> list[str]:
    """Hold an image's Debian packages to the manifest of its profile on its base.

    Where none is kept for that base there is nothing to hold it to. Gives the differences as a
    line, where ``request.frozen_packages`` is not set.

    Raises:
        JobFailed: packages differ; names them.
    """
    said = compared(client, client.images.get(reference), plan.profile, plan.base.name, locks)
    if said is None:
        return []
    line = f"{reference} has other Debian packages than the lock: {said}"
    if not plan.request.frozen_packages:
        return [f"frozen: {line}"]
    raise JobFailed(
        line,
        hint="the mirror has published newer ones: --no-frozen takes them, and then "
        "invoke lock --only apt locks them",
    )


def compared(
    client: DockerClient, image: Image, profile: str, base: str, locks: Path
) -> str | None:
    """In what an image's packages differ from the manifest; None where they do not, or it has none.

    Raises:
        JobFailed: the image cannot be asked.
    """
    path = packages.path_of(profile, str(image.attrs.get("Architecture", "")), locks)
    locked = packages.read(path, str(image.attrs.get("Architecture", "")))
    if locked is None or locked.base != base:
        return None
    try:
        found = packages.of_image(client, image)
    except CannotAsk as why:
        raise JobFailed(str(why), hint="invoke build-image --no-cache makes it anew") from why
    changed = packages.differences(locked, found)
    return packages.few(changed) if changed else None


def _refuse(found: list[str]) -> None:
    if found:
        raise UsageFault(
            "\n".join(["a frozen build takes nothing that is not locked", *found]),
            hint="each line says what locks it; --no-frozen builds with it all the same",
        )


def _made_here(ref: str, client: DockerClient) -> bool:
    from docker.errors import ImageNotFound

    try:
        return MADE_HERE in (client.images.get(ref).labels or {})
    except ImageNotFound:
        return False
