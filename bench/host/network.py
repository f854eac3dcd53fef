"""The host's way to the network, for a build: CA bundle, proxies, pip's indexes, mirrors.

They reach the build as BuildKit secrets, files that exist only while a step runs, because build
arguments and variables stay in an image's history. docker/Dockerfile says what each file is.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bench.host import apt
from bench.host.mirrors import URL_MIRRORS, Mirrors

CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
# pip's options that say where packages come from; a folder of the host means nothing in a build.
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host")
PIP_CONFIG_TIMEOUT_S = 30
LOOPBACK = re.compile(r"localhost|::1|127(\.\d+){3}")


@dataclass(frozen=True)
class HostNetwork:
    """What the host uses. ``variables`` are to be exported; ``apt_sources`` is a whole file."""

    ca_bundle: bytes | None
    variables: Mapping[str, str]
    apt_sources: str | None
    mirrors: Mirrors = field(default_factory=Mirrors)

    @property
    def passwords(self) -> frozenset[str]:
        """Every password or token in a URL, so that a build's output can be cleaned of them."""
        texts = " ".join([*self.variables.values(), self.apt_sources or "", *self.mirrors.urls])
        found = set()
        for scheme, user, password in re.findall(r"(\w+)://([^/\s@:]*)(?::([^/\s@]+))?@", texts):
            # A user alone is a token where HTTP is spoken; over SSH it is a name such as git.
            secret = password or (user if scheme in ("http", "https") else "")
            found |= {secret, unquote(secret)} - {""}
        return frozenset(found)

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that a build will ask."""
        named = [value for key, value in self.variables.items() if not _is_no_address(key)]
        words = [*" ".join(named).split(), *self.mirrors.urls]
        sources = re.findall(r"https?://\S+", self.apt_sources or "")
        # A proxy may be given without a scheme; HTTP is meant.
        return tuple(word if "://" in word else f"http://{word}" for word in [*words, *sources])

    @property
    def on_loopback(self) -> bool:
        """Whether a proxy or index is on this very machine, out of a bridge network's reach."""
        return any(LOOPBACK.fullmatch(urlsplit(url).hostname or "") for url in self.urls)


def collect(
    environ: Mapping[str, str], etc: Path = Path("/etc"), mirrors: Mirrors | None = None
) -> HostNetwork:
    """Read the host's settings from its environment, pip's files and apt's; mirrors go first."""
    mirrors = mirrors or Mirrors()
    pip = pip_settings(_pip_config(environ))
    bundles = [environ.get(name, "") for name in CA_VARIABLES] + [pip.get("cert", "")]
    bundle = next((Path(path) for path in bundles if path and Path(path).is_file()), None)
    variables = {}
    for name in PROXY_VARIABLES:
        # curl and apt read the lower-case name, pip either; the upper-case one counts if both.
        value = environ.get(name) or environ.get(name.lower())
        if value:
            variables[name] = variables[name.lower()] = value
    for option in PIP_OPTIONS:
        words = pip.get(option, "").split()
        kept = [word for word in words if option == "trusted-host" or _is_web(word)]
        if kept:
            variables[f"PIP_{option.upper().replace('-', '_')}"] = " ".join(kept)
    if mirrors.pip:
        variables["PIP_INDEX_URL"] = mirrors.pip
        if urlsplit(mirrors.pip).scheme == "http":
            # pip takes packages without TLS only from hosts that it is told to trust.
            trusted = [variables.get("PIP_TRUSTED_HOST", ""), urlsplit(mirrors.pip).hostname or ""]
            variables["PIP_TRUSTED_HOST"] = " ".join(filter(None, trusted))
    return HostNetwork(
        ca_bundle=bundle.read_bytes() if bundle else None,
        variables=variables,
        # An apt mirror that the user names replaces the host's own sources.
        apt_sources=None if mirrors.apt else apt.sources_list(etc),
        mirrors=mirrors,
    )


@contextmanager
def secret_files(
    network: HostNetwork, more: Mapping[str, bytes] | None = None
) -> Iterator[dict[str, Path]]:
    """Files for ``docker buildx build --secret``, by id; removed when the block is left."""
    contents: dict[str, bytes] = dict(more or {})
    if network.ca_bundle:
        contents["ca"] = network.ca_bundle
    exported = dict(network.variables)
    if table := network.mirrors.url_table:
        exported[URL_MIRRORS] = table
    if exported:
        lines = (f"export {key}={shlex.quote(value)}" for key, value in exported.items())
        contents["net"] = "\n".join([*lines, ""]).encode()
    if network.apt_sources:
        contents["apt"] = network.apt_sources.encode()
    if script := network.mirrors.apt_script:
        contents["aptsed"] = script.encode()
    if gitconfig := network.mirrors.gitconfig:
        contents["git"] = gitconfig.encode()
    with tempfile.TemporaryDirectory(prefix="gpt-frontend-") as folder:  # mode 0700
        files = {}
        for name, content in contents.items():
            files[name] = Path(folder, name)
            files[name].touch(mode=0o600)
            files[name].write_bytes(content)
        yield files


def pip_settings(listing: str) -> dict[str, str]:
    """Option to value from ``pip config list``; where several places set one, pip's own order."""
    values: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for option, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listing, re.MULTILINE):
            values[option] = str(ast.literal_eval(value))
    return values


def _pip_config(environ: Mapping[str, str]) -> str:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    done = subprocess.run(
        argv, env=dict(environ), capture_output=True, text=True, timeout=PIP_CONFIG_TIMEOUT_S
    )
    return done.stdout if done.returncode == 0 else ""


def _is_no_address(variable: str) -> bool:
    return variable.lower() in ("no_proxy", "pip_trusted_host")


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")
