"""A registry on loopback that can be written to, by the OCI distribution specification: with the
referrers API or without, open or by login, and willing or not to take artefacts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit import listening

NAME = "me/gpt-frontend"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
USER, PASSWORD, IDENTITY = "me", "a-password", "an-identity"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """``api``: whether it lists referrers. ``login``: none, ``basic`` or ``bearer``.

    ``refuses`` is the status with which it answers the manifest of an artefact. ``overwrites`` is
    an index that another client writes in place of the next one, just after it.
    """

    api: bool = True
    login: str | None = None
    refuses: int | None = None
    page: int = 100
    overwrites: bytes | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: int = 0
    port: int = 0

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}/{NAME}"

    def keep(self, content: bytes, kind: str = MANIFEST, tag: str | None = None) -> str:
        """A manifest that is there."""
        self.manifests[digest(content)] = (content, kind)
        if tag is not None:
            self.manifests[tag] = (content, kind)
        return digest(content)

    def image(self, words: str = "an image") -> str:
        """The digest of a whole image of one platform."""
        config, layer = b'{"os": "linux"}', words.encode()
        self.blobs |= {digest(config): config, digest(layer): layer}
        made = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"digest": digest(config), "size": len(config)},
            "layers": [{"digest": digest(layer), "size": len(layer)}],
        }
        return self.keep(json.dumps(made).encode())

    def written(self) -> list[str]:
        return [line for line in self.asked if line.startswith(("PUT", "POST"))]

    def referrers(self, of: str) -> list[dict[str, Any]]:
        """What names an image as its subject, as the API lists it."""
        found = []
        for name, (content, kind) in self.manifests.items():
            one = json.loads(content)
            if ":" in name and one.get("subject", {}).get("digest") == of:
                entry = {"mediaType": kind, "digest": name, "size": len(content)}
                entry |= {key: one[key] for key in ("artifactType", "annotations") if key in one}
                found.append(entry)
        return found


@contextlib.contextmanager
def serving(state: Registry) -> Iterator[Registry]:
    class Handler(listening.Replies):
        def do_GET(self) -> None:  # noqa: N802 -- the library's name
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            state.asked.append(f"{self.command} {parts.path}")
            if parts.path == "/token":
                self.token(parse_qs(parts.query), parse_qs(content.decode()))
            elif not self.welcome():
                self.challenge(
                    'Basic realm="here"'
                    if state.login == "basic"
                    else f'Bearer realm="http://127.0.0.1:{state.port}/token",service="here",'
                    f'scope="repository:{NAME}:pull,push"'
                )
            elif parts.path == "/v2/":
                self.reply(b"{}")
            elif found := re.fullmatch(rf"/v2/{NAME}/(\w+)/(.*)", parts.path):
                self.within(found[1], found[2], parse_qs(parts.query), content)
            else:
                self.fault(404, "NAME_UNKNOWN")

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 -- the library's names

        def welcome(self) -> bool:
            basic = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
            wanted = {None: None, "basic": basic, "bearer": "Bearer a-token"}[state.login]
            return wanted is None or self.headers.get("Authorization") == wanted

        def token(self, query: dict[str, list[str]], form: dict[str, list[str]]) -> None:
            state.tokens += 1
            known = self.headers.get("Authorization", "").startswith("Basic ")
            asked = form if self.command == "POST" else query
            assert asked["scope"] == [f"repository:{NAME}:pull,push"]
            if known or form.get("refresh_token") == [IDENTITY]:
                self.reply(b'{"access_token": "a-token"}')
            else:
                self.fault(401, "UNAUTHORIZED")

        def within(self, what: str, rest: str, query: dict[str, list[str]], body: bytes) -> None:
            if what == "blobs" and rest == "uploads/" and self.command == "POST":
                self.reply(b"", {"Location": f"/v2/{NAME}/blobs/uploads/1?state=x"}, 202)
            elif what == "blobs" and rest.startswith("uploads/") and self.command == "PUT":
                assert query["digest"] == [digest(body)] and query["state"] == ["x"]
                state.blobs[digest(body)] = body
                self.reply(b"", status=201)
            elif what == "blobs" and rest in state.blobs:
                self.reply(state.blobs[rest])
            elif what == "manifests" and self.command == "PUT":
                self.keep(rest, body)
            elif what == "manifests" and rest in state.manifests:
                content, kind = state.manifests[rest]
                self.reply(content, {"Content-Type": kind})
            elif what == "referrers" and state.api:
                entries = state.referrers(rest)
                start = int(query.get("from", ["0"])[0])
                more = {"Content-Type": INDEX}
                if start + state.page < len(entries):
                    more["Link"] = (
                        f'<{self.path.split("?")[0]}?from={start + state.page}>; rel="next"'
                    )
                some = entries[start : start + state.page]
                self.reply(json.dumps({"schemaVersion": 2, "manifests": some}).encode(), more)
            else:
                self.fault(404, "MANIFEST_UNKNOWN")

        def keep(self, reference: str, content: bytes) -> None:
            said = json.loads(content)
            if state.refuses and "artifactType" in said:
                self.fault(state.refuses, "MANIFEST_INVALID")
                return
            if state.overwrites is not None and "manifests" in said:
                content, state.overwrites = state.overwrites, None
            kind = self.headers["Content-Type"]
            assert said["mediaType"] == kind
            state.keep(content, kind, None if ":" in reference else reference)
            told = {}
            if state.api and "subject" in said:
                told = {"OCI-Subject": said["subject"]["digest"]}
            self.reply(b"", told, 201)

        def fault(self, status: int, code: str) -> None:
            error = {"code": code, "message": "not\nhere"}
            self.reply(json.dumps({"errors": [error]}).encode(), status=status)

    with listening.on_loopback(Handler) as server:
        state.port = server.server_port
        yield state
