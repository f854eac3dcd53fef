"""Texts for training, fetched on the host into the user's cache and checked by sha256.

A file lies at ``gpt-frontend/texts/<sha256>`` of the cache folder, under its own sum, so that
what is there is what it is called. Jobs read it there and need no network.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from bench.build.fetch import download
from bench.build.fetch.fault import Fault, Passing, masked
from bench.build.fetch.git import CA_HINT
from bench.build.fetch.patience import Patience
from bench.errors import UsageFault

MOST_BYTES = 8 * 2**30
_CHUNK = 1 << 18
_TIMEOUT_S = 30
_BY_HAND = "name a text that is on this machine: --text FILE"
# Whoever waits at a terminal wants to know soon that there is no network.
PATIENCE = Patience(attempts=3, pause_s=1.0)

Say = Callable[[str], None]


def cache_of(environ: Mapping[str, str]) -> Path:
    """Where the user's texts are kept."""
    root = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "gpt-frontend" / "texts"


def is_url(named: str) -> bool:
    """Whether a text is named by its address, not as a file."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", named) is not None


def parted(url: str) -> tuple[str, str | None]:
    """An address and the checksum that stands behind it: ``https://…/input.txt#sha256=…``.

    Raises:
        UsageFault: what stands there is not a sha256.
    """
    plain, _, fragment = url.partition("#")
    if not fragment:
        return plain, None
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if found is None:
        raise UsageFault(
            f"'#{fragment}' is not a checksum", hint="as in URL#sha256= and 64 hexadecimal digits"
        )
    return plain, found[1].lower()


def kept(sha256: str, cache: Path) -> Path | None:
    """The file of that sum, where the cache has it; what is damaged is removed."""
    path = cache / sha256
    try:
        if path.is_file() and download.sum_of(path) == sha256:
            return path
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(cache, error) from error
    return None


def fetch(
    url: str,
    sha256: str | None,
    cache: Path,
    environ: Mapping[str, str],
    say: Say,
    patience: Patience = PATIENCE,
) -> Path:
    """The file at ``url`` in the cache; with a sum that it has already, without the network.

    Args:
        url: its address, http or https.
        sha256: what it must be; None takes whatever the server answers.
        cache: the folder of texts.
        environ: proxies, the CA bundle and mirrors, as downloads in a build know them.
        say: is told the progress.
        patience: how often it is tried.

    Raises:
        UsageFault: it cannot be had, or is another file than its checksum promises.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageFault(f"not a web address: {masked(url)}", hint="http://…, https://… or a file")
    if sha256 is not None and (path := kept(sha256, cache)) is not None:
        return path
    if environ.get("REQUESTS_CA_BUNDLE") and not environ.get("SSL_CERT_FILE"):
        environ = {**environ, "SSL_CERT_FILE": environ["REQUESTS_CA_BUNDLE"]}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if sha256 is None:
            return _unchecked(url, cache, environ, say, patience)
        asked = download.mirrored(url, environ)
        wanted = download.Wanted(url, sha256, asked)
        # In a folder of its own: what is cut there is taken up again by the next attempt.
        opener = download.opener_for(asked, environ)
        fetched = download.obtain(wanted, cache / "unfinished", patience, opener, say)
        fetched.replace(cache / sha256)
    except Fault as fault:
        raise _told(url, fault) from fault
    except OSError as error:
        raise _unusable(cache, error) from error
    return cache / sha256


def _unchecked(
    url: str, cache: Path, environ: Mapping[str, str], say: Say, patience: Patience
) -> Path:
    """What the server answers now, kept under its own sum."""
    asked = download.mirrored(url, environ)
    opener = download.opener_for(asked, environ)
    with _temporary(cache) as part:

        def attempt(number: int) -> None:
            try:
                _transfer(opener, asked, part, say)
            except urllib.error.HTTPError as error:
                error.close()
                why = f"the server answered {error.code} {error.reason}"
                kind = Passing if error.code in download.PASSING_STATUS else Fault
                raise kind(why) from error
            except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise Passing(str(reason) or type(reason).__name__) from error

        patience.run(masked(url), attempt, say)
        path = cache / download.sum_of(part)
        part.replace(path)
    return path


def _transfer(opener: urllib.request.OpenerDirector, asked: str, part: Path, say: Say) -> None:
    request = urllib.request.Request(asked, headers={"User-Agent": "gpt-frontend"})
    with opener.open(request, timeout=_TIMEOUT_S) as answer, part.open("wb") as file:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        done = 0
        while block := answer.read(_CHUNK):
            done += len(block)
            if done > MOST_BYTES:
                raise Fault(f"the text is over {MOST_BYTES // 2**30} GiB")
            file.write(block)
            say(f"{done / 1e6:.1f} MB" + (f" of {total / 1e6:.1f}" if total else ""))
        if total is not None and done < total:
            raise Passing(f"the connection ended after {done} of {total} bytes")


@contextlib.contextmanager
def _temporary(cache: Path) -> Iterator[Path]:
    path = cache / f"partial-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _told(url: str, fault: Fault) -> UsageFault:
    # A build's own hints name options that `invoke train` has not.
    first = CA_HINT if fault.hint == CA_HINT else "check the network and the proxy (https_proxy)"
    message = f"cannot fetch {masked(url)}: {masked(fault.message)}"
    return UsageFault(message, hint=f"{first}, or {_BY_HAND}")


def _unusable(cache: Path, error: OSError) -> UsageFault:
    return UsageFault(
        f"cannot use the cache {cache}: {error.strerror or error}",
        hint="name another folder: export XDG_CACHE_HOME=DIR; or " + _BY_HAND,
    )
