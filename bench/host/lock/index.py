"""A package index asked by PyPI's simple API (PEP 503 and its JSON form, PEP 691)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from pip._internal.models.index import PyPI  # pip's own default; it has no public name for it

from bench.build.fetch.fault import masked
from bench.host import network, web
from bench.host.mirrors import Mirrors
from bench.host.web import CannotAsk

JSON = "application/vnd.pypi.simple.v1+json"
KINDS = f"{JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


def address(mirrors: Mirrors, environ: Mapping[str, str]) -> str:
    """The index that the user's own pip asks, or the mirror that was named."""
    told = network.collect(environ, mirrors=mirrors).variables.get("PIP_INDEX_URL")
    return (told or PyPI.simple_url).rstrip("/")


def releases(package: str, index: str, environ: Mapping[str, str]) -> list[Version]:
    """The releases that have a wheel and were not withdrawn, the newest first; no pre-releases.

    Raises:
        CannotAsk: the index does not answer, or does not have the package.
    """
    url = f"{index}/{canonicalize_name(package)}/"
    said = web.body(url, environ, {"Accept": KINDS}).decode("utf-8", "replace")
    found = set()
    for name in _json(url, said) if said.lstrip().startswith("{") else _html(said):
        try:
            version = parse_wheel_filename(name)[1]
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if not version.is_prerelease and version.local is None:
            found.add(version)
    if not found:
        raise CannotAsk(f"{masked(url)} lists no wheel of a release")
    return sorted(found, reverse=True)


def _json(url: str, said: str) -> Iterator[str]:
    try:
        for file in json.loads(said)["files"]:
            if not file.get("yanked"):
                yield str(file["filename"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotAsk(f"{masked(url)}: no list of files") from error


def _html(said: str) -> Iterator[str]:
    for attributes, text in re.findall(r"<a\b([^>]*)>([^<]*)</a>", said, re.IGNORECASE):
        if "data-yanked" not in attributes:
            yield html.unescape(text).strip()
