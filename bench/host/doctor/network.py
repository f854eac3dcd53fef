"""The way out: CA bundle, proxies, mirrors, and whether git, packages and images can be reached."""

from __future__ import annotations

import importlib
import re
import ssl
from collections.abc import Mapping
from datetime import datetime, timezone
from urllib.parse import urlsplit

from bench.errors import UsageFault
from bench.host.doctor import web
from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.scene import Scene
from bench.host.loopback import DESKTOP_GATEWAY, PORTS
from bench.host.mirrors import EXAMPLE
from bench.host.network import CA_VARIABLES, LOOPBACK, PROXY_VARIABLES

TCP_TIMEOUT_S = 3.0


def _pip_index() -> str:
    """Where pip looks when nobody says otherwise, as pip itself has it."""
    return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)


PIP_INDEX = _pip_index()
PURPOSES = {
    "git": "sources are cloned from there",
    "pip": "Python packages come from there",
    "registry": "the pinned base images are pulled from there",
}
OTHERWISE = {
    "git": "name a mirror: invoke build-image --mirror github=URL",
    "pip": "name an index: export PIP_INDEX_URL=URL; or a folder of wheels: --wheelhouse DIR",
    "registry": "make a base without one: sudo .venv/bin/invoke base-image; or --base IMAGE",
}
CA_REMEDY = "name your company's CA bundle: export REQUESTS_CA_BUNDLE=FILE"
_PUBLIC = 50  # CA certificates in a bundle that is a distribution's, with or without one more
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def targets(scene: Scene) -> dict[str, str]:
    """The servers to ask, by purpose; all are asked at once, while other checks run."""
    mirrors, git = scene.mirrors, scene.needs.git_url
    found = {f"mirror {urlsplit(public).hostname}": url for public, url in mirrors.git.items()}
    if git is not None and f"{git}/" not in mirrors.git:
        found["git"] = git
    if mirrors.apt:
        found["mirror apt"] = mirrors.apt
    if mirrors.pip:
        found["mirror pip"] = f"{mirrors.pip}/"
    else:
        index = (url for url in scene.pip.get("index-url", "").split() if _is_web(url))
        found["pip"] = next(index, PIP_INDEX)
    if mirrors.registry:
        server = mirrors.registry.partition("/")[0]
        scheme = "http" if _is_loopback(server.partition(":")[0]) else "https"
        found["mirror registry"] = f"{scheme}://{server}/v2/"
    else:
        found["registry"] = f"https://{scene.needs.registry}/v2/"
    return found


def check_mirrors(scene: Scene) -> Finding:
    """The configuration of mirrors; whether each answers is told with the other servers."""
    found = scene.mirrors_or_fault
    if isinstance(found, UsageFault):
        why = "no image is built while it cannot be read"
        return Finding("mirrors", scene.for_image, found.message, why, found.hint or EXAMPLE)
    named = [urlsplit(public).hostname or public for public in found.git]
    named += [name for name in ("apt", "pip", "registry") if getattr(found, name)]
    return ok("mirrors", f"for {', '.join(named)}" if named else "none is configured")


def check_ca_bundle(scene: Scene) -> list[Finding]:
    """Every file that is named for certificates: there, readable, valid, and with a CA in it."""
    named = {name: scene.host.environ[name] for name in (*CA_VARIABLES, "GIT_SSL_CAINFO")
             if scene.host.environ.get(name)}  # fmt: skip
    if cert := scene.pip.get("cert"):
        named.setdefault("pip's cert", cert)
    by_path: dict[str, list[str]] = {}
    for name, path in named.items():
        by_path.setdefault(path, []).append(name)
    if not by_path:
        return [ok("CA bundle", "none is named: the system's certificates are used")]
    return [_bundle(scene, path, ", ".join(names)) for path, names in by_path.items()]


def _bundle(scene: Scene, path: str, names: str) -> Finding:
    text = scene.host.read(path)
    place = f"{path} ({names})"
    if text is None:
        there = scene.host.exists(path)
        return note(
            "CA bundle",
            f"{place} {'cannot be read' if there else 'is not there'}",
            "pip, git and the build then trust no server, or silently other certificates",
            f"sudo chmod a+r {path}" if there else f"correct or unset {names}",
        )
    blocks = _PEM.findall(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata="\n".join(blocks))
        held = context.get_ca_certs()
    except (ssl.SSLError, ValueError):
        held = []
    if not held:
        return note(
            "CA bundle",
            f"{place} holds no CA certificate that can be read",
            "no server can be trusted by it",
            "a bundle is text, `-----BEGIN CERTIFICATE-----`; from a .der or .crt file of Windows: "
            "openssl x509 -inform der -in FILE -out ca.pem",
        )
    dead = [cert for cert in held if _end(cert) < scene.host.now()]
    # A bundle of public roots always holds some that have run out; a company's own does not.
    if len(dead) == len(held) or (dead and len(held) < _PUBLIC):
        one = f"{_common_name(dead[0])} expired on {_end(dead[0]):%Y-%m-%d}"
        return note(
            "CA bundle",
            f"{place}: {len(dead)} of {len(held)} CA certificates expired: {one}",
            "servers behind an expired CA are refused: `certificate has expired`",
            "ask your company for the new CA, or: sudo apt-get install --reinstall ca-certificates "
            "&& sudo update-ca-certificates",
        )
    old = f", {len(dead)} of them expired, as old public ones do" if dead else ""
    return ok("CA bundle", f"{place}: {len(held)} CA certificates{old}")


def check_proxy(scene: Scene) -> list[Finding]:
    """Each proxy of the environment: a URL, answering, and within reach of a build's container."""
    environ = scene.host.environ
    named: dict[str, list[str]] = {}
    for name in PROXY_VARIABLES:
        value = environ.get(name) or environ.get(name.lower())
        if value and name != "NO_PROXY":
            named.setdefault(value, []).append(name.lower())
    if not named:
        return [ok("proxy", "none is named")]
    found = [_proxy(scene, url, ", ".join(names)) for url, names in named.items()]
    engine = scene.engine
    https = any("https_proxy" in names for names in named.values())
    if https and engine is not None and not engine.info.get("HttpsProxy"):
        found.append(_engine_without_proxy(scene))
    return found


def _proxy(scene: Scene, url: str, names: str) -> Finding:
    shown = f"{web.shown(url)} ({names})"
    try:
        parts = urlsplit(url)
        address, port = parts.hostname, parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        address, port = None, 0
    if not address or parts.scheme not in ("http", "https", "socks4", "socks5", "socks5h"):
        return note(
            "proxy",
            f"{shown} is not the URL of a proxy",
            "apt, pip and git each make something else of it",
            f"export {names.split(',')[0]}=http://HOST:PORT",
        )
    error = scene.host.tcp(address, port, TCP_TIMEOUT_S)
    if error is not None:
        return note(
            "proxy",
            f"{shown} does not answer: {error}",
            "everything that is fetched goes through it",
            f"start the proxy program, or: unset {names.replace(',', '')}",
        )
    if any(_needs_credentials(scene.answer(name)) for name in scene.asked):
        return note(
            "proxy",
            f"{shown} asks for a name and a password (407 Proxy Authentication Required)",
            "nothing is fetched without them; they reach a build as a secret and stay in no image",
            f"export {names.split(',')[0]}=http://NAME:PASSWORD@{address}:{port} (special "
            "characters as %40 and the like)",
        )
    if _is_loopback(address):
        return _loopback(scene, "proxy", shown, port)
    return ok("proxy", shown)


def _loopback(scene: Scene, check: str, shown: str, port: int) -> Finding:
    """What listens on this machine: a container's loopback is another, so it needs a second way.

    The ways are those of bench/host/loopback.py.
    """
    engine = scene.engine
    if engine is None:
        return ok(check, f"{shown}, on this machine; no engine whose builds would need it")
    if scene.desktop:
        return ok(check, f"{shown}, on this machine; builds reach it as {DESKTOP_GATEWAY}:{port}")
    gateway = engine.gateway()
    if gateway is not None and scene.host.tcp(gateway, port, TCP_TIMEOUT_S) is None:
        return ok(check, f"{shown}, on this machine; builds reach it as {gateway}:{port}")
    remedy = (
        f'switch "allow LAN connections" on in the proxy program (bind to 0.0.0.0 or {gateway}, '
        f"and let the firewall admit port {port} from there)"
    )
    if scene.wsl:
        remedy += "; a proxy of Windows: networkingMode=mirrored under [wsl2] in .wslconfig"
    seen = f"{shown} listens on this machine alone, not at {gateway or 'a bridge'}"
    why = "127.0.0.1 in a container is the container itself: there it says `connection refused`"
    if engine.url.startswith("unix://") and not scene.rootless:
        return note(check, seen, f"{why}; builds share the host's whole network instead", remedy)
    return Finding(check, scene.for_image, seen, f"{why}; no build reaches it", remedy)


def _engine_without_proxy(scene: Scene) -> Finding:
    return note(
        "engine's proxy",
        "the engine has no proxy of its own",
        "it pulls base images itself, without the proxy of your shell: `context deadline exceeded`",
        "Docker Desktop > Settings > Resources > Proxies"
        if scene.desktop
        else 'Environment="HTTPS_PROXY=URL" under [Service] in '
        "/etc/systemd/system/docker.service.d/proxy.conf, then: sudo systemctl daemon-reload && "
        "sudo systemctl restart docker",
    )


def check_reach(scene: Scene) -> list[Finding]:
    """What came of the questions to git's server, the package index, the registry, the mirrors."""
    return [_reach(scene, name, url) for name, url in scene.asked.items()]


def _reach(scene: Scene, name: str, url: str) -> Finding:
    answer, shown = scene.answer(name), web.shown(url)
    error = answer.error or (f"status {answer.status}" if _is_broken(answer) else "")
    if not error:
        parts = urlsplit(url)
        # The registry is asked by the engine itself, not by a build's container.
        if "registry" not in name and _is_loopback(parts.hostname or ""):
            return _loopback(scene, name, shown, parts.port or PORTS[parts.scheme])
        return ok(name, f"{shown} answers")
    purpose = PURPOSES.get(name, "it was named to be used instead of the original")
    remedy = OTHERWISE.get(name, "correct the mirror's URL, or leave it out")
    if error.startswith("not tried"):
        return ok(name, f"{shown} {error}")
    if "CERTIFICATE_VERIFY" in error:
        late = "expired" in error or "not yet valid" in error
        remedy = f"check the clock; {CA_REMEDY}" if late else CA_REMEDY
    elif _needs_credentials(answer):
        remedy = "give the proxy its name and password, see the finding on the proxy"
    elif web.proxy_for(url, scene.host.environ) is None:
        remedy = f"check the network; behind a proxy: export https_proxy=URL; {remedy}"
    return note(name, f"{shown} cannot be reached: {error}", purpose, remedy)


def _is_broken(answer: web.Answer) -> bool:
    """Whether a status is a failure of the way there: 401 and 404 come from the server itself."""
    return answer.status == 407 or (answer.status or 0) >= 500


def _needs_credentials(answer: web.Answer) -> bool:
    return answer.status == 407 or "407" in answer.error


def _is_loopback(address: str) -> bool:
    return LOOPBACK.fullmatch(address) is not None


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


def _end(cert: Mapping[str, object]) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(cert["notAfter"])), timezone.utc)


def _common_name(cert: Mapping[str, object]) -> str:
    """What a certificate is called: its common name, else its organisation."""
    subject = cert.get("subject")
    rows = subject if isinstance(subject, tuple) else ()
    names = {key: value for row in rows for key, value in row}
    return str(names.get("commonName") or names.get("organizationName") or "one without a name")
