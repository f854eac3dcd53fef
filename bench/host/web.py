"""One request to a web server, by the caller's own way to the network."""

from __future__ import annotations

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from bench.build.fetch.download import opener_for
from bench.build.fetch.fault import Fault, masked
from bench.host.network import CA_VARIABLES

TIMEOUT_S = 20
# An index page of a large project is some MB; nothing that is asked for here is larger.
LARGEST_BYTES = 2**26
_REASON_BYTES = 2**12  # of a refusal: registries say why in some words of JSON


class CannotAsk(Exception):
    """No answer was to be had: why, in one line without any password."""


class Answer(Protocol):
    """The part of an HTTP response that is used here."""

    status: int
    headers: Message

    def read(self, amount: int = -1, /) -> bytes:
        """The body, or so many bytes of it."""
        ...


class Refusal(CannotAsk):
    """A server's answer that is no success. ``status`` is HTTP's, ``content`` how it begins."""

    def __init__(self, why: str, status: int, headers: Message, content: bytes = b"") -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers
        self.content = content


@contextmanager
def opened(
    url: str,
    environ: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    content: bytes | None = None,
) -> Iterator[Answer]:
    """An answer to a request, which may have a body, ``content``; to be read inside the block.

    Raises:
        Refusal: the server answered, and not with success.
        CannotAsk: it did not answer, or what it said broke off.
    """
    bundle = next((environ[name] for name in CA_VARIABLES if _is_file(environ.get(name))), None)
    told = {**environ, **({"SSL_CERT_FILE": bundle} if bundle else {})}
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    plain = urlunsplit(parts._replace(netloc=place))
    request = urllib.request.Request(
        plain, content, headers={"User-Agent": "gpt-frontend"}, method=method
    )
    for name, value in (headers or {}).items():
        # A token is for the server that was asked, not for whom it sends us on to.
        add = request.add_unredirected_header if name == "Authorization" else request.add_header
        add(name, value)
    if at:
        # An index's or a mirror's user and password: urllib takes none from an address.
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    try:
        with opener_for(plain, told).open(request, timeout=TIMEOUT_S) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        said = b""
        # The status is what is told on; the registry's words about it may be cut off.
        with suppress(OSError, http.client.HTTPException):
            said = error.read(_REASON_BYTES)
        error.close()
        why = f"{masked(url)} answered {error.code} {error.reason}"
        raise Refusal(why, error.code, error.headers, said) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise CannotAsk(f"{masked(url)}: {reason or type(reason).__name__}") from error
    except Fault as fault:  # of the proxy's or the CA bundle's settings
        raise CannotAsk(f"{fault.message} ({fault.hint})") from fault


def body(url: str, environ: Mapping[str, str], headers: Mapping[str, str] | None = None) -> bytes:
    """The whole answer; raises as ``opened`` does."""
    with opened(url, environ, headers) as answer:
        return whole(answer, url)


def whole(answer: Answer, url: str) -> bytes:
    """The body of an answer from ``url``.

    Raises:
        CannotAsk: it is longer than anything that is asked for, or the connection ended before it.
    """
    content = answer.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise CannotAsk(f"{masked(url)}: the answer is longer than {LARGEST_BYTES >> 20} MiB")
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and len(content) < int(length):
        raise CannotAsk(f"{masked(url)}: {len(content)} of {length} bytes came")
    return content


def _is_file(path: str | None) -> bool:
    return bool(path) and Path(str(path)).is_file()
