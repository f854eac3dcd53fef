"""One repository of an image registry, by the registry's HTTP API v2: manifests and blobs, read and
written, each held to its digest.

Source: the OCI distribution specification, 1.1, "Pull" and "Push"; how a token is had as Docker's
registry documentation describes it (https://distribution.github.io/distribution/spec/auth/).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlencode, urljoin, urlsplit

from bench.host import web
from bench.host.network import LOOPBACK
from bench.host.web import CannotAsk

DOCKER_HUB = "registry-1.docker.io"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# An index before a manifest: a pin names all machines' images at once, as `docker pull` shows it.
KINDS = (
    OCI_INDEX,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.v2+json",
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PAGES = 200  # of a listing; NVIDIA's CUDA repository has some 3,000 tags, 100 a page
_CLIENT = "gpt-frontend"


class Altered(Exception):
    """A registry gave something else than the digest that it was asked for; says what."""


@dataclass(frozen=True)
class Page:
    """One part of a listing."""

    url: str
    content: bytes
    headers: Message


@dataclass(frozen=True)
class Login:
    """Who asks: a user and a password, or the token that a registry gave in place of both."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The header of HTTP's Basic scheme."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


def digest_of(content: bytes) -> str:
    """``sha256:…`` of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def located(repository: str) -> tuple[str, str]:
    """(host, name) of a reference without a tag; without a host it is Docker Hub's."""
    first, slash, rest = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, name = first, rest
    else:
        host, name = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    if host in ("docker.io", "index.docker.io"):
        host, name = DOCKER_HUB, name if "/" in name else f"library/{name}"
    return host, name


def on_loopback(host: str) -> bool:
    """Whether ``host``, which may have a port, is this machine: an engine asks it without TLS."""
    return LOOPBACK.fullmatch(urlsplit(f"//{host}").hostname or "") is not None


class Repository:
    """A repository ``name`` of the ``server`` ``https://HOST``; asks as nobody without a login."""

    def __init__(
        self, server: str, name: str, environ: Mapping[str, str], login: Login | None = None
    ) -> None:
        self.server = server
        self.name = name
        self._environ = environ
        self._login = login
        self._authorization: str | None = None

    def url(self, path: str) -> str:
        """The address of ``path`` below the repository: ``manifests/TAG``."""
        return f"{self.server}/v2/{self.name}/{path}"

    def ask(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        content: bytes | None = None,
    ) -> tuple[bytes, Message]:
        """Body and headers of an answer, with a token from where the registry says to have one.

        Raises:
            CannotAsk: it did not answer, or refuses; a ``web.Refusal`` has its status.
        """
        ours = urlsplit(url)[:2] == urlsplit(self.server)[:2]
        for attempt in range(2):
            # An upload may be sent on to another server, which must not see a token of this one.
            known = {"Authorization": self._authorization} if self._authorization and ours else {}
            try:
                with web.opened(
                    url,
                    self._environ,
                    {**(headers or {}), **known},
                    method=method,
                    content=content,
                ) as answer:
                    head = method == "HEAD"
                    return b"" if head else web.whole(answer, url), answer.headers
            except web.Refusal as refusal:
                if refusal.status != 401 or attempt or not ours:
                    raise _told(refusal) from refusal
                self._authorization = self._authorized(url, refusal)
        raise AssertionError("the second attempt returns or raises")

    def pages(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[Page]:
        """What lies at ``path``, a listing that may go on under further addresses.

        Raises:
            CannotAsk: as ``ask`` does; or it goes on at another server, or without an end.
        """
        url = self.url(path)
        for _ in range(PAGES):
            content, said = self.ask(url, headers)
            yield Page(url, content, said)
            following = re.search(r'<([^>]+)>\s*;\s*rel="?next', said.get("Link", ""))
            if following is None:
                return
            url = urljoin(url, following[1])
            if urlsplit(url)[:2] != urlsplit(self.server)[:2]:
                raise CannotAsk(f"{self.server} sends its listing on to another server")
        raise CannotAsk(f"{url}: the listing does not end")

    def manifest(self, reference: str) -> tuple[bytes, str]:
        """A manifest by tag or digest, and its media type.

        Raises:
            CannotAsk: the registry does not give it.
            Altered: it gives another one than the digest names.
        """
        url = self.url(f"manifests/{reference}")
        content, said = self.ask(url, {"Accept": ", ".join(KINDS)})
        _held(content, reference, url)
        return content, said.get_content_type()

    def blob(self, digest: str) -> bytes:
        """A small blob, whole; raises as ``manifest`` does."""
        url = self.url(f"blobs/{digest}")
        content, _ = self.ask(url)
        _held(content, digest, url)
        return content

    def put_blob(self, content: bytes) -> None:
        """Have the registry keep a blob, if it does not already.

        Raises:
            CannotAsk: it refuses.
        """
        digest = digest_of(content)
        try:
            self.ask(self.url(f"blobs/{digest}"), method="HEAD")
            return
        except web.Refusal as refusal:
            if refusal.status != 404:
                raise
        start = self.url("blobs/uploads/")
        _, said = self.ask(start, method="POST", content=b"")
        place = urljoin(start, said.get("Location", ""))
        place += f"{'&' if urlsplit(place).query else '?'}{urlencode({'digest': digest})}"
        kind = {"Content-Type": "application/octet-stream"}
        self.ask(place, kind, method="PUT", content=content)

    def put_manifest(self, reference: str, content: bytes, kind: str) -> Message:
        """Have the registry keep a manifest, by tag or digest; gives the answer's headers.

        Raises:
            CannotAsk: it refuses.
        """
        url = self.url(f"manifests/{reference}")
        return self.ask(url, {"Content-Type": kind}, method="PUT", content=content)[1]

    def _authorized(self, url: str, refusal: web.Refusal) -> str:
        """What the registry wants to see, by what it says of that in its refusal."""
        wanted = refusal.headers.get("WWW-Authenticate", "")
        login = self._login
        if login and login.user and wanted.lower().startswith("basic"):
            return login.basic
        fields = dict(re.findall(r'(\w+)="([^"]*)"', wanted))
        realm = fields.pop("realm", "")
        place = urlsplit(realm)
        if not wanted.lower().startswith("bearer ") or place.scheme not in ("http", "https"):
            other = "another login than there is" if login else "a login, and there is none"
            raise CannotAsk(f"{url}: it wants {other}") from refusal
        query = {key: value for key, value in fields.items() if key in ("service", "scope")}
        same = place.netloc == urlsplit(self.server).netloc
        if login and place.scheme == "http" and not (same or on_loopback(place.netloc)):
            raise CannotAsk(f"{realm}: no password is sent there without TLS") from refusal
        if login and login.identity:
            query |= {"grant_type": "refresh_token", "client_id": _CLIENT}
            form = urlencode({**query, "refresh_token": login.identity}).encode()
            with web.opened(realm, self._environ, method="POST", content=form) as answer:
                said = web.whole(answer, realm)
        else:
            known = {"Authorization": login.basic} if login and login.user else {}
            said = web.body(f"{realm}?{urlencode(query)}", self._environ, known)
        try:
            told = json.loads(said)
            return f"Bearer {told.get('token') or told['access_token']}"
        except (ValueError, KeyError, AttributeError) as error:
            raise CannotAsk(f"{realm}: no token in its answer") from error


def _held(content: bytes, reference: str, url: str) -> None:
    found = digest_of(content)
    if DIGEST.fullmatch(reference) and found != reference:
        raise Altered(f"{url} gives something of the sha256 {found.removeprefix('sha256:')}")


def _told(refusal: web.Refusal) -> web.Refusal:
    """A refusal with the registry's own words: errors[].code and .message."""
    try:
        first = json.loads(refusal.content)["errors"][0]
        words = f"{first['code']}: {first.get('message', '')}".split()
        said = " ".join(words)[:200].rstrip(": ")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return refusal
    return web.Refusal(f"{refusal} ({said})", refusal.status, refusal.headers, refusal.content)
