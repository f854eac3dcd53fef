"""A registry as the engine reaches it, for what the engine cannot carry: the same login, and plain
HTTP where the engine is content with it.
"""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from bench.host import web
from bench.host.distribution import DOCKER_HUB, Login, Repository, located, on_loopback
from bench.host.network import PROXY_VARIABLES
from bench.host.web import CannotAsk


def repository(place: str, info: Mapping[str, Any], environ: Mapping[str, str]) -> Repository:
    """The repository HOST/NAME; ``info`` is what the engine tells of itself.

    Raises:
        CannotAsk: the registry does not answer this machine, or its login cannot be read.
    """
    host, name = located(place)
    if on_loopback(host):  # no proxy is this machine; the engine asks none either
        environ = {key: environ[key] for key in environ if key.upper() not in PROXY_VARIABLES}
        schemes = ["http", "https"]
    else:  # TLS first: a password is not for whoever answers without it
        schemes = ["https", "http"] if insecure(host, info) else ["https"]
    said: list[str] = []
    for scheme in schemes:
        server = f"{scheme}://{host}"
        try:
            web.body(f"{server}/v2/", environ)
        except web.Refusal as refusal:
            if refusal.status != 401:
                said.append(str(refusal))
                continue
        except CannotAsk as why:
            said.append(str(why))
            continue
        return Repository(server, name, environ, login(host))
    raise CannotAsk("; ".join(said))


def insecure(host: str, info: Mapping[str, Any]) -> bool:
    """Whether an engine is told to take a registry without TLS.

    ``host`` may have a port, which its list then has too; a network there is for addresses.
    """
    config = info.get("RegistryConfig") or {}
    listed = (config.get("IndexConfigs") or {}).get(host) or {}
    if listed.get("Secure") is False:
        return True
    try:
        address = ipaddress.ip_address(urlsplit(f"//{host}").hostname or "")
        networks = [ipaddress.ip_network(one) for one in config.get("InsecureRegistryCIDRs") or ()]
    except ValueError:  # a name; which addresses it has is not asked
        return False
    return any(address in one for one in networks)


def login(host: str) -> Login | None:
    """What ``docker login`` keeps for a registry, in its file or by a credential helper.

    Raises:
        CannotAsk: it cannot be read.
    """
    from docker import auth
    from docker.errors import DockerException

    asked = auth.INDEX_NAME if host == DOCKER_HUB else host
    try:
        # The library writes the keys small from the file and large from a helper.
        with warnings.catch_warnings():  # of a helper that is not there, which is raised as well
            warnings.simplefilter("ignore")
            known = auth.resolve_authconfig(auth.load_config(), registry=asked) or {}
        told = {str(key).lower(): str(value) for key, value in known.items()}
    except (DockerException, OSError, ValueError, LookupError, TypeError) as error:
        # The words of another error may quote what was to be read.
        why = str(error) if isinstance(error, DockerException) else type(error).__name__
        raise CannotAsk(f"the login of {host} cannot be read: {why}") from error
    made = Login(told.get("username", ""), told.get("password", ""), told.get("identitytoken", ""))
    return made if made.user or made.identity else None
