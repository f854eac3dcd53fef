"""What listens on this machine's loopback, made reachable for a build.

In a build's own network 127.0.0.1 is the build's. The engine's gateway leads to the host, but only
to what listens there: a proxy has to “allow LAN connections”. Docker Desktop hands
host.docker.internal on to the host's loopback as it is. Whether it works is tried, not guessed.
"""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from bench.errors import UsageFault
from bench.host.network import LOOPBACK, HostNetwork

DESKTOP_GATEWAY = "host.docker.internal"
PROBE_TIMEOUT_S = 2.0
PORTS = {"http": 80, "https": 443, "ftp": 21, "ssh": 22, "git": 9418}
PORTS |= {"socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

Probe = Callable[[str, int], bool]


def accepts(host: str, port: int) -> bool:
    """Whether something takes a TCP connection there."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def reachable(
    network: HostNetwork, gateway: str | None, local_engine: bool, probe: Probe = accepts
) -> tuple[HostNetwork, bool]:
    """The network as a build can use it, and whether it needs the host's own (--network host).

    ``gateway`` is the bridge's address of this machine, or host.docker.internal for Docker
    Desktop; ``local_engine`` says that the engine runs on this very machine, on Linux.

    Raises:
        UsageFault: nothing listens where a setting points, or the build cannot get there.
    """
    places = dict.fromkeys(
        (parts.hostname or "", _port(url))
        for url in network.urls
        if LOOPBACK.fullmatch((parts := urlsplit(url)).hostname or "")
    )
    if not places:
        return network, False
    for host, port in places:
        if not probe(host, port):
            raise UsageFault(
                f"a proxy, index or mirror is set to {host}:{port}, but nothing listens there",
                hint="start it, or unset it: env | grep -i -e proxy -e pip_",
            )
    if gateway == DESKTOP_GATEWAY:
        return moved(network, gateway), False
    ports = sorted({port for _, port in places})
    shut = [port for port in ports if gateway is None or not probe(gateway, port)]
    if gateway is not None and not shut:
        return moved(network, gateway), False
    if local_engine:
        return network, True
    where = gateway or "this machine's own address"
    raise UsageFault(
        f"a build cannot reach 127.0.0.1:{shut[0]} of this machine, where a proxy, index or mirror "
        f"is, and at {where} nothing takes a connection on that port",
        hint="switch on “allow LAN connections” in the proxy (listen on 0.0.0.0), and see that the "
        "firewall lets the engine's network in",
    )


def moved(network: HostNetwork, gateway: str) -> HostNetwork:
    """The network with every loopback address replaced by the gateway's."""
    host = f"[{gateway}]" if ":" in gateway else gateway

    def there(text: str) -> str:
        return " ".join(_replaced(word, host) for word in text.split())

    variables = {key: there(value) for key, value in network.variables.items()}
    for key in variables:
        if key.lower() == "no_proxy":
            variables[key] = _without_proxy(network.variables[key], gateway)
    # pip takes packages without TLS from localhost unasked, but not from the gateway.
    if any(
        url != network.variables[key] and "http://" in url
        for key, url in variables.items()
        if key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    ):
        trusted = network.variables.get("PIP_TRUSTED_HOST", "").split()
        variables["PIP_TRUSTED_HOST"] = " ".join(dict.fromkeys([*trusted, gateway]))
    old = network.mirrors
    mirrors = dataclasses.replace(
        old,
        git={public: _replaced(url, host) for public, url in old.git.items()},
        apt=old.apt and _replaced(old.apt, host),
        pip=old.pip and _replaced(old.pip, host),
    )
    sources = network.apt_sources and re.sub(
        r"https?://\S+", lambda found: _replaced(found[0], host), network.apt_sources
    )
    return dataclasses.replace(network, variables=variables, mirrors=mirrors, apt_sources=sources)


def _without_proxy(value: str, gateway: str) -> str:
    """NO_PROXY, with the gateway in it if loopback was: it is the same place."""
    names = [name.strip() for name in value.split(",")]
    local = any(LOOPBACK.fullmatch(name) or name == "127.0.0.0/8" for name in names)
    return f"{value},{gateway}" if local and gateway not in names else value


def _replaced(url: str, host: str) -> str:
    found = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    if not LOOPBACK.fullmatch(found):
        return url
    return re.sub(
        rf"^((?:[a-z0-9+]+://)?(?:[^/@]*@)?)(\[{re.escape(found)}\]|{re.escape(found)})(?=[:/]|$)",
        lambda match: match[1] + host,
        url,
        count=1,
        flags=re.IGNORECASE,
    )


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or PORTS.get(parts.scheme, 80)
