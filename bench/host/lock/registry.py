"""An image registry asked which digest a tag has, and which tags there are.

Source: the OCI distribution specification, 1.1, "Pulling manifests" and "Listing tags". No password
is read: a registry that wants one is named as not asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from bench.host.distribution import DIGEST, KINDS, Repository, digest_of, located, on_loopback
from bench.host.mirrors import Mirrors, base_ref
from bench.host.web import CannotAsk


@dataclass(frozen=True)
class Place:
    """Where an image is asked for: ``server`` with its scheme, ``name`` and ``tag``."""

    server: str
    name: str
    tag: str


def place_of(ref: str, mirrors: Mirrors) -> Place:
    """A reference as Docker reads it: without a host it is Docker Hub's, or its mirror's."""
    asked = base_ref(ref.partition("@")[0], mirrors)
    tag = asked.rpartition("/")[2].partition(":")[2]
    host, name = located(asked.removesuffix(f":{tag}"))
    # As an engine does: plain HTTP on this machine alone.
    scheme = "http" if on_loopback(host) else "https"
    return Place(f"{scheme}://{host}", name, tag or "latest")


def digest(ref: str, mirrors: Mirrors, environ: Mapping[str, str]) -> str:
    """The digest that a tag has now, as ``sha256:…``: of the index where there is one.

    Raises:
        CannotAsk: the registry did not answer, wants a login, or has no such tag.
    """
    repository = _repository(ref, mirrors, environ)
    url = repository.url(f"manifests/{place_of(ref, mirrors).tag}")
    content, said = repository.ask(url, {"Accept": ", ".join(KINDS)})
    # The header is optional, and the content is what a digest is of.
    counted = digest_of(content)
    told = said.get("Docker-Content-Digest")
    if told is not None and told != counted and DIGEST.fullmatch(told):
        raise CannotAsk(f"{url}: the answer's sha256 is {counted}, its header says {told}")
    return counted


def tags(ref: str, mirrors: Mirrors, environ: Mapping[str, str]) -> list[str]:
    """Every tag of the repository that a reference names; raises as ``digest`` does."""
    found: list[str] = []
    for page in _repository(ref, mirrors, environ).pages("tags/list?n=100"):
        try:
            found += [str(tag) for tag in json.loads(page.content)["tags"] or []]
        except (ValueError, KeyError, TypeError) as error:
            raise CannotAsk(f"{page.url}: no list of tags") from error
    return found


def _repository(ref: str, mirrors: Mirrors, environ: Mapping[str, str]) -> Repository:
    place = place_of(ref, mirrors)
    return Repository(place.server, place.name, environ)
