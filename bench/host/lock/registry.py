"""An image registry asked by its HTTP API v2: which digest a tag has, which tags there are.

Source: the OCI distribution specification, 1.1, "Pulling manifests" and "Listing tags"; the
token of a public image as Docker's registry documentation describes it. No password is read: a
registry that wants one is named as not asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlencode, urljoin, urlsplit

from bench.host.lock import web
from bench.host.lock.part import CannotAsk
from bench.host.mirrors import Mirrors, base_ref

DOCKER_HUB = "registry-1.docker.io"
# An index before a manifest: a pin names all machines' images at once, as `docker pull` shows it.
KINDS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LOOPBACK = re.compile(r"localhost|127(\.\d+){3}")
PAGES = 200  # of tags; NVIDIA's CUDA repository has some 3,000 tags, 100 a page


@dataclass(frozen=True)
class Place:
    """Where an image is asked for: ``server`` with its scheme, ``name`` and ``tag``."""

    server: str
    name: str
    tag: str


def place_of(ref: str, mirrors: Mirrors) -> Place:
    """A reference as Docker reads it: without a host it is Docker Hub's, or its mirror's."""
    asked = base_ref(ref.partition("@")[0], mirrors)
    first, slash, rest = asked.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, rest
    else:
        host, path = DOCKER_HUB, asked if "/" in asked else f"library/{asked}"
    if host in ("docker.io", "index.docker.io"):
        host, path = DOCKER_HUB, path if "/" in path else f"library/{path}"
    name, _, tag = path.partition(":")
    # As an engine does: plain HTTP on this machine alone.
    scheme = "http" if LOOPBACK.fullmatch(host.partition(":")[0]) else "https"
    return Place(f"{scheme}://{host}", name, tag or "latest")


def digest(ref: str, mirrors: Mirrors, environ: Mapping[str, str]) -> str:
    """The digest that a tag has now, as ``sha256:…``: of the index where there is one.

    Raises:
        CannotAsk: the registry did not answer, wants a login, or has no such tag.
    """
    place = place_of(ref, mirrors)
    url = f"{place.server}/v2/{place.name}/manifests/{place.tag}"
    content, said = _get(url, environ, {"Accept": ", ".join(KINDS)})
    # The header is optional, and the content is what a digest is of.
    counted = f"sha256:{hashlib.sha256(content).hexdigest()}"
    told = said.get("Docker-Content-Digest")
    if told is not None and told != counted and DIGEST.fullmatch(told):
        raise CannotAsk(f"{url}: the answer's sha256 is {counted}, its header says {told}")
    return counted


def tags(ref: str, mirrors: Mirrors, environ: Mapping[str, str]) -> list[str]:
    """Every tag of the repository that a reference names; raises as ``digest`` does."""
    place = place_of(ref, mirrors)
    url: str | None = f"{place.server}/v2/{place.name}/tags/list?n=100"
    found: list[str] = []
    for _ in range(PAGES):
        if url is None:
            return found
        content, said = _get(url, environ, {})
        try:
            found += [str(tag) for tag in json.loads(content)["tags"] or []]
        except (ValueError, KeyError, TypeError) as error:
            raise CannotAsk(f"{url}: no list of tags") from error
        following = re.search(r'<([^>]+)>\s*;\s*rel="?next', said.get("Link", ""))
        url = urljoin(url, following[1]) if following else None
        if url and urlsplit(url)[:2] != urlsplit(place.server)[:2]:
            raise CannotAsk(f"{place.server} sends its list of tags on to another server")
    return found


def _get(url: str, environ: Mapping[str, str], headers: dict[str, str]) -> tuple[bytes, Message]:
    """Body and headers; with the token that the registry says where to get, if it wants one."""
    for attempt in range(2):
        try:
            with web.opened(url, environ, headers) as answer:
                return answer.read(web.LARGEST_BYTES), answer.headers
        except web.Refusal as refusal:
            if refusal.status != 401 or attempt:
                raise
            headers = {**headers, "Authorization": f"Bearer {_token(url, refusal, environ)}"}
    raise AssertionError("the second attempt returns or raises")


def _token(url: str, refusal: web.Refusal, environ: Mapping[str, str]) -> str:
    wanted = refusal.headers.get("WWW-Authenticate", "")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', wanted))
    realm = fields.pop("realm", "")
    if not wanted.lower().startswith("bearer ") or urlsplit(realm).scheme not in ("http", "https"):
        raise CannotAsk(f"{url}: it wants a login, which `invoke lock` does not have") from refusal
    query = {key: value for key, value in fields.items() if key in ("service", "scope")}
    said = web.body(f"{realm}?{urlencode(query)}", environ)
    try:
        told = json.loads(said)
        return str(told.get("token") or told["access_token"])
    except (ValueError, KeyError, AttributeError) as error:
        raise CannotAsk(f"{realm}: no token in its answer") from error
