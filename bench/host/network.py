"""The host's way to the network, for a build: CA bundle, proxies, pip's indexes, apt mirrors.

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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.host import apt

CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
# pip's options that say where packages come from; a folder of the host means nothing in a build.
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host")
PIP_CONFIG_TIMEOUT_S = 30


@dataclass(frozen=True)
class HostNetwork:
    """What the host uses. ``variables`` are to be exported; ``apt_sources`` is a whole file."""

    ca_bundle: bytes | None
    variables: Mapping[str, str]
    apt_sources: str | None

    @property
    def passwords(self) -> frozenset[str]:
        """Every password or token in a URL, so that a build's output can be cleaned of them."""
        texts = " ".join([*self.variables.values(), self.apt_sources or ""])
        found = re.findall(r"://([^/\s@:]+)(?::([^/\s@]+))?@", texts)
        return frozenset(password or token for token, password in found)

    @property
    def on_loopback(self) -> bool:
        """Whether a proxy or index is on this very machine, out of a bridge network's reach."""
        urls = [value for key, value in self.variables.items() if not key.lower().startswith("no_")]
        hosts = {urlsplit(url).hostname or "" for text in urls for url in text.split()}
        return any(
            host in ("localhost", "::1") or re.match(r"127(\.\d+){3}$", host) for host in hosts
        )


def collect(environ: Mapping[str, str], etc: Path = Path("/etc")) -> HostNetwork:
    """Read the host's settings from its environment, pip's files and apt's."""
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
    return HostNetwork(
        ca_bundle=bundle.read_bytes() if bundle else None,
        variables=variables,
        apt_sources=apt.sources_list(etc),
    )


@contextmanager
def secret_files(network: HostNetwork) -> Iterator[dict[str, Path]]:
    """Files for ``docker buildx build --secret``, by id; removed when the block is left."""
    contents: dict[str, bytes] = {}
    if network.ca_bundle:
        contents["ca"] = network.ca_bundle
    if network.variables:
        lines = (f"export {key}={shlex.quote(value)}" for key, value in network.variables.items())
        contents["net"] = "\n".join([*lines, ""]).encode()
    if network.apt_sources:
        contents["apt"] = network.apt_sources.encode()
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


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")
