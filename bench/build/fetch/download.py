"""A file by URL and checksum, kept in a cache, taken up again where it was cut.

    python3 -m bench.build.fetch.download --url URL --sha256 SUM --into FILE [--cache DIR]
        [--unpack DIR --folder NAME]

A file gets its name only after its checksum was right. Proxies come from the environment, the CA
bundle from SSL_CERT_FILE, mirrors from GPT_FRONTEND_URL_MIRRORS (JSON: prefix to prefix).
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from bench.build.fetch import lockfile, unpack
from bench.build.fetch.fault import Fault, Passing, masked, say, told
from bench.build.fetch.git import CA_HINT, NETWORK_HINT
from bench.build.fetch.patience import Patience

CHUNK = 1 << 18
# An attempt that brought so many bytes does not count against the number of attempts.
FURTHER = 1 << 20
PROGRESS_EVERY_S = 5.0
STALL_TIMEOUT_S = 60
MIRRORS = "GPT_FRONTEND_URL_MIRRORS"
# What a server may answer while it is overloaded.
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """A file: its public URL, the sha256 it must have, and the URL that is really asked."""

    url: str
    sha256: str
    asked: str

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return urlsplit(self.url).path.rpartition("/")[2] or "file"


def mirrored(url: str, environ: Mapping[str, str]) -> str:
    """The URL with the longest mirrored prefix replaced; itself where none matches.

    Raises:
        Fault: the variable is no JSON object of texts.
    """
    try:
        table = json.loads(environ.get(MIRRORS) or "{}")
        prefixes = {str(key): str(value) for key, value in table.items()}
    except (ValueError, AttributeError) as error:
        raise Fault(f"{MIRRORS} is not a JSON object: {error}") from error
    prefix = max((key for key in prefixes if url.startswith(key)), key=len, default=None)
    return url if prefix is None else prefixes[prefix] + url[len(prefix) :]


def obtain(
    wanted: Wanted, cache: Path, patience: Patience, opener: urllib.request.OpenerDirector, say: Say
) -> Path:
    """The file in the cache, its checksum just verified; fetched if it was not there.

    Raises:
        Fault: it cannot be had, or is another file than the checksum promises.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{wanted.sha256[:16]}-{wanted.name}"
    part = path.with_name(f"{path.name}.part")
    with lockfile.held(path.with_name(f"{path.name}.lock"), say, wanted.name):
        if path.is_file():
            if sum_of(path) == wanted.sha256:
                say(f"{wanted.name}: in the cache, checksum right")
                return path
            say(f"{wanted.name}: in the cache, but damaged: fetching it anew")
            path.unlink()
        resumed = part.exists()
        _transfer(wanted, part, patience, opener, say)
        found = sum_of(part)
        if found != wanted.sha256 and resumed:
            # What lay there may have been the beginning of something else.
            say(f"{wanted.name}: what was continued has the wrong checksum: fetching it anew")
            part.unlink()
            _transfer(wanted, part, patience, opener, say)
            found = sum_of(part)
        if found != wanted.sha256:
            part.unlink()
            raise Fault(
                f"{masked(wanted.url)}: wrong checksum: sha256 {found}, expected {wanted.sha256}",
                hint="a proxy or mirror may have answered with another file; if the release itself "
                "changed, compare with its publisher's checksum before docker/pins.toml changes",
            )
        part.rename(path)
    return path


def sum_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _transfer(
    wanted: Wanted,
    part: Path,
    patience: Patience,
    opener: urllib.request.OpenerDirector,
    say: Say,
) -> None:
    def attempt(number: int) -> None:
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(wanted, part, before, opener, say)
        except urllib.error.HTTPError as error:
            error.close()
            raise _refusal(wanted, error) from error
        except (OSError, http.client.HTTPException, _Short) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Fault(f"{wanted.name}: {reason}", hint=CA_HINT) from error
            if "407" in str(reason):  # a proxy's answer to CONNECT
                raise Fault(f"{wanted.name}: {reason}", hint=_STATUS_HINTS[407]) from error
            now = part.stat().st_size if part.exists() else 0
            # An error of a socket may be without words.
            why = str(reason) or type(reason).__name__
            raise Passing(why, hint=NETWORK_HINT, further=now - before >= FURTHER) from error

    patience.run(wanted.name, attempt, say)


class _Short(Exception):
    """The connection ended before the file did."""


def _attempt(
    wanted: Wanted, part: Path, have: int, opener: urllib.request.OpenerDirector, say: Say
) -> None:
    parts = urlsplit(wanted.asked)
    user, at, place = parts.netloc.rpartition("@")
    plain = urlunsplit(parts._replace(netloc=place))
    request = urllib.request.Request(plain, headers={"User-Agent": "gpt-frontend"})
    if at:
        # A mirror's user and password: urllib takes none from an address. Not for redirections.
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = opener.open(request, timeout=STALL_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # There is nothing after what we have: it is whole, or of another file. The sum decides.
        error.close()
        if f"/{have}" == (error.headers.get("Content-Range") or "").removeprefix("bytes *"):
            return
        part.unlink()
        raise _Short("the server has less than was fetched before") from error
    with answer:
        continued = answer.status == 206 and str(
            answer.headers.get("Content-Range", "")
        ).startswith(f"bytes {have}-")
        start = have if continued else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        say(f"{wanted.name}: {_amount(start, total)}")
        done, shown = start, time.monotonic()
        with part.open("ab" if continued else "wb") as file:
            while block := answer.read(CHUNK):
                file.write(block)
                done += len(block)
                if time.monotonic() - shown > PROGRESS_EVERY_S:
                    shown = time.monotonic()
                    say(f"{wanted.name}: {_amount(done, total)}")
        if total is not None and done < total:
            raise _Short(f"the connection ended after {_amount(done, total)}")
    say(f"{wanted.name}: {_amount(done, total)}")


def _amount(done: int, total: int | None) -> str:
    if not total:
        return f"{done / 1e6:.1f} MB"
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB ({100 * done // total}%)"


_STATUS_HINTS = {
    403: "the server or a proxy forbids it: try a mirror: --mirror github=URL",
    404: "check the URL in docker/pins.toml; a mirror may lack this file",
    407: "the proxy wants a user and a password: export https_proxy=http://USER:PASSWORD@HOST:PORT",
}


def _refusal(wanted: Wanted, error: urllib.error.HTTPError) -> Fault:
    why = f"{wanted.name}: the server answered {error.code} {error.reason}"
    if error.code in PASSING_STATUS:
        return Passing(f"the server answered {error.code} {error.reason}", hint=NETWORK_HINT)
    return Fault(why, hint=_STATUS_HINTS.get(error.code, "check the URL, the proxy, the mirror"))


def opener_for(url: str, environ: Mapping[str, str]) -> urllib.request.OpenerDirector:
    """What opens URLs by the environment's proxies and CA bundle.

    Raises:
        Fault: only a SOCKS proxy is named, or the CA bundle is not there.
    """
    scheme = urlsplit(url).scheme
    proxies = {}
    for name in ("http", "https"):
        found = next(
            (
                environ[key]
                for key in (f"{name}_proxy", f"{name.upper()}_PROXY", "all_proxy", "ALL_PROXY")
                if environ.get(key)
            ),
            None,
        )
        if found:
            proxies[name] = found if "://" in found else f"http://{found}"
    if urlsplit(proxies.get(scheme, "")).scheme.startswith("socks"):
        raise Fault(
            f"this download cannot use the proxy {masked(proxies[scheme])}: Python's own client "
            "speaks no SOCKS",
            hint="name the proxy's HTTP port too: export https_proxy=http://HOST:PORT "
            "(git uses ALL_PROXY=socks5h://… as it is)",
        )
    bundle = environ.get("SSL_CERT_FILE")
    if bundle and not Path(bundle).is_file():
        raise Fault(f"SSL_CERT_FILE={bundle} is not a file", hint="unset it, or name the CA bundle")
    return urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=_trust(bundle))
    )


@functools.lru_cache(maxsize=4)
def _trust(bundle: str | None) -> ssl.SSLContext:
    """Whom to trust; reading a system's some 150 certificates takes longer than a short answer."""
    return ssl.create_default_context(cafile=bundle or None)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The step: its exit status, 0 where the file (and its folder) are there."""
    parser = argparse.ArgumentParser(prog="bench.build.fetch.download", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--unpack", type=Path, metavar="DIR")
    parser.add_argument("--folder", metavar="NAME", help="the archive's one top folder")
    parser.add_argument("--attempts", type=int, default=Patience.attempts)
    parser.add_argument("--pause", type=float, default=Patience.pause_s, help="the first, seconds")
    options = parser.parse_args(argv)

    def step() -> None:
        if not re.fullmatch("[0-9a-f]{64}", options.sha256):
            raise Fault(f"not a sha256: {options.sha256}", hint="64 hexadecimal digits")
        if urlsplit(options.url).scheme not in ("http", "https"):
            raise Fault(f"not a web address: {options.url}", hint="http:// or https://")
        if (options.unpack is None) != (options.folder is None):
            raise Fault("--unpack DIR and --folder NAME go together")
        if options.into is None and (options.unpack is None or options.cache is None):
            raise Fault("nowhere to put it", hint="--into FILE, or --cache DIR --unpack DIR")
        wanted = Wanted(options.url, options.sha256, mirrored(options.url, environ))
        # Without a cache, what is unfinished lies beside the file that it will be.
        cache = options.cache or options.into.absolute().parent / f".{options.into.name}.download"
        patience = Patience(max(options.attempts, 1), options.pause)
        file = obtain(wanted, cache, patience, opener_for(wanted.asked, environ), say)
        if options.into is not None:
            _place(file, options.into.absolute(), keep=options.cache is not None)
            file = options.into
        if options.cache is None:
            shutil.rmtree(cache)
        if options.unpack is not None:
            unpack.unpack(file, options.unpack, options.folder, say)

    return told(step)


def _place(file: Path, into: Path, *, keep: bool) -> None:
    into.parent.mkdir(parents=True, exist_ok=True)
    if not keep:
        file.rename(into)
        return
    partial = into.with_name(f"{into.name}.partial")
    shutil.copyfile(file, partial)
    partial.rename(into)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))
