"""The Debian packages of an image: listed in a container of it, kept, compared.

``docker/locks/apt-PROFILE.ARCHITECTURE.txt`` holds one ``package=version`` a line, for the
profile's image on its pinned base; its second line names that base.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.host.images import made_at
from bench.host.lock.part import Change, Part, Unasked
from bench.host.pins import Pins
from bench.host.web import CannotAsk

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

LABELS = "io.gpt-frontend"
QUERY = r"${db:Status-Status} ${Package}=${Version} ${Architecture}\n"
TIMEOUT_S = 60
BASE_LINE = "# base: "
# So many differing packages are named one by one.
NAMED = 8


@dataclass(frozen=True)
class Manifest:
    """Package to version, all of one architecture but for those of none; and their base."""

    architecture: str
    base: str
    versions: dict[str, str]

    @property
    def text(self) -> str:
        """The file's content."""
        head = "# The Debian packages of the profile's image, as `invoke lock` found them in it.\n"
        lines = (f"{name}={version}\n" for name, version in sorted(self.versions.items()))
        return f"{head}{BASE_LINE}{self.base}\n{''.join(lines)}"


def path_of(profile: str, architecture: str, locks: Path) -> Path:
    """Where the manifest of a profile's image is kept."""
    return locks / f"apt-{profile}.{architecture}.txt"


def read(path: Path, architecture: str) -> Manifest | None:
    """A kept manifest; None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    base = re.search(rf"^{BASE_LINE}(.+)$", text, re.MULTILINE)
    versions = dict(re.findall(r"^([a-z0-9][a-z0-9.+-]*)=(\S+)$", text, re.MULTILINE))
    return Manifest(architecture, base[1] if base else "", versions)


def listing(text: str, architecture: str, base: str) -> Manifest:
    """What ``dpkg-query`` printed by QUERY, as a manifest; packages that were removed are out."""
    found = re.findall(r"^installed (\S+?)=(\S+) \S+$", text, re.MULTILINE)
    return Manifest(architecture, base, dict(found))


def of_image(client: DockerClient, image: Image) -> Manifest:
    """Ask an image, in a container without network that is removed whatever happens.

    Raises:
        CannotAsk: it has no dpkg, or does not answer.
    """
    from docker.errors import APIError
    from requests.exceptions import RequestException

    architecture = str(image.attrs.get("Architecture", "unknown"))
    base = image.labels.get(f"{LABELS}.base", "")
    container = None
    try:
        container = client.containers.create(
            str(image.id),
            ["dpkg-query", "--show", f"--showformat={QUERY}"],
            entrypoint=[],
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        container.start()
        ended = container.wait(timeout=TIMEOUT_S)
        text = container.logs(stdout=True, stderr=False).decode("utf-8", "replace")
    except (APIError, RequestException) as error:
        raise CannotAsk(f"the image cannot be asked for its packages: {error}") from error
    finally:
        if container is not None:
            with contextlib.suppress(APIError, RequestException):
                container.remove(force=True)
    if ended["StatusCode"] != 0:
        raise CannotAsk("the image cannot be asked for its packages: dpkg-query failed")
    return listing(text, architecture, base)


def differences(locked: Manifest, found: Manifest) -> list[str]:
    """Each package that differs, as ``name old -> new``."""
    names = sorted({*locked.versions, *found.versions})
    return [
        f"{name} {locked.versions.get(name, '(none)')} -> {found.versions.get(name, '(none)')}"
        for name in names
        if locked.versions.get(name) != found.versions.get(name)
    ]


def few(lines: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(lines) - NAMED
    return "; ".join(lines[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def resolve(pins: Pins, locks: Path, client: DockerClient | None, no_engine: str = "") -> Part:
    """The manifest of each profile's newest image here that stands on the profile's pinned base."""
    part = Part("apt")
    for name, profile in pins.profiles.items():
        place = f"docker/locks/apt-{name}"
        if client is None:
            part.unasked.append(Unasked(place, no_engine))
            continue
        image = _newest(client, name, profile.base)
        if image is None:
            why = f"no image of {name} on {profile.base.partition('@')[0]} is here: build it first"
            part.unasked.append(Unasked(place, why))
            continue
        try:
            found = of_image(client, image)
        except CannotAsk as why_not:
            part.unasked.append(Unasked(place, str(why_not)))
            continue
        path = path_of(name, found.architecture, locks)
        locked = read(path, found.architecture)
        if locked is not None and locked == found:
            part.same.append(f"docker/locks/{path.name}")
            continue
        changed = differences(locked, found) if locked else []
        old = f"{len(locked.versions)} packages" if locked else "(none)"
        meaning = "the first manifest of this profile's packages"
        if locked is not None:
            meaning = few(changed) or f"the same packages on another base: {found.base}"
        new = f"{len(found.versions)} packages"
        part.changes.append(Change(f"docker/locks/{path.name}", old, new, meaning))
        part.files[path] = found.text
    return part


def _newest(client: DockerClient, profile: str, base: str) -> Image | None:
    wanted = {"label": [f"{LABELS}.profile={profile}", f"{LABELS}.base={base}"]}
    found = [one for one in client.images.list(filters=wanted) if one.tags]
    return max(found, key=made_at, default=None)
