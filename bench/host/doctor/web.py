"""One question to a web server, asked as pip and git would: the user's proxy, the user's CA."""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came of a question. Any ``status`` is an answer; None and ``error`` where none came.

    ``date`` is the server's clock, ``at`` this machine's when the answer came.
    """

    status: int | None
    error: str = ""
    date: datetime | None = None
    at: datetime | None = None


def head(url: str, timeout: float, ca_file: str | None, environ: Mapping[str, str]) -> Answer:
    """Ask for the head of ``url``. ``timeout`` is for each wait; a name look-up may take longer."""
    proxy = proxy_for(url, environ)
    if proxy and urlsplit(proxy).scheme.startswith("socks"):
        return Answer(None, "not tried: it goes through a SOCKS proxy")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        return Answer(None, f"{ca_file}: {error}")
    handlers = [
        urllib.request.ProxyHandler({urlsplit(url).scheme: proxy} if proxy else {}),
        urllib.request.HTTPSHandler(context=context),
    ]
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "gpt-frontend"})
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            return _answer(response.status, response.headers)
    except urllib.error.HTTPError as error:  # 401, 404, 407: somebody is there
        with error:
            return _answer(error.code, error.headers)
    except urllib.error.URLError as error:
        return Answer(None, str(error.reason))
    except (OSError, HTTPException, ValueError) as error:
        return Answer(None, str(error) or type(error).__name__)


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for ``url``; None where it is asked directly."""
    parts = urlsplit(url)
    excluded = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if excluded and urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
        parts.hostname or "", {"no": excluded}
    ):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        if value := environ.get(name) or environ.get(name.upper()):
            return value
    return None


def shown(url: str) -> str:
    """A URL that may be printed: without the name and password that it may hold."""
    # Not by urlsplit: a proxy is often written without its scheme, and a password with a slash.
    return re.sub(r"^([A-Za-z][\w+.-]*://)?.*@", r"\1***@", url)


def _answer(status: int, headers: Message) -> Answer:
    now = datetime.now(timezone.utc)
    try:
        date = parsedate_to_datetime(headers["Date"])
    except (KeyError, TypeError, ValueError):
        return Answer(status, at=now)
    # Old servers write a date without a zone; HTTP's is always UTC.
    return Answer(status, date=date if date.tzinfo else date.replace(tzinfo=timezone.utc), at=now)
