"""Mirrors that the user names: of git hosts, of apt, pip and the image registry.

From ``--mirror NAME=URL`` and from the table [mirrors] of a file: $GPT_FRONTEND_CONFIG, else
gpt-frontend/config.toml under $XDG_CONFIG_HOME, else under ~/.config. The command line counts.

    github=URL    in place of https://github.com/ (any host's name: gitlab.com=URL)
    apt=URL       holds debian/, debian-security/, ubuntu/ as the distributions' own servers do
    pip=URL       an index, /simple at its end
    registry=HOST holds Docker Hub's images: HOST/library/debian, HOST/nvidia/cuda
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench.errors import UsageFault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = "for example --mirror github=https://mirror.example/github/"
# The name that a variable of the build has, and bench/build/fetch/download.py reads.
URL_MIRRORS = "GPT_FRONTEND_URL_MIRRORS"
# Short names beside hosts' own.
GIT_HOSTS = {"github": "github.com", "gitlab": "gitlab.com"}
GIT_SCHEMES = ("http", "https", "ssh", "git")
WEB_SCHEMES = ("http", "https")
HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
# host[:port][/path] as in an image's reference.
REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*")
DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
# The folders in which the distributions' own servers keep their packages. Told by these, since the
# servers have other names from one country and cloud to the next.
APT_FOLDERS = ("debian-security", "debian", "ubuntu-ports", "ubuntu")


@dataclass(frozen=True)
class Mirrors:
    """``git`` maps a public prefix, ``https://github.com/``, to a mirror's; both end in a slash."""

    git: Mapping[str, str] = field(default_factory=dict)
    apt: str | None = None
    pip: str | None = None
    registry: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that a build asks: the registry is the engine's affair."""
        return (*self.git.values(), *(url for url in (self.apt, self.pip) if url))

    @property
    def gitconfig(self) -> str:
        """A configuration for git that sends each way to write a host's URLs to its mirror."""
        sections = []
        for public, mirror in self.git.items():
            lines = [f"\tinsteadOf = {prefix}\n" for prefix in spellings(public)]
            sections.append(f'[url "{mirror}"]\n{"".join(lines)}')
        return "".join(sections)

    @property
    def git_variables(self) -> dict[str, str]:
        """The same for a git on the host, as variables: its user's own configuration stays."""
        pairs = [
            (f"url.{mirror}.insteadOf", prefix)
            for public, mirror in self.git.items()
            for prefix in spellings(public)
        ]
        found = {"GIT_CONFIG_COUNT": str(len(pairs))} if pairs else {}
        for number, (key, value) in enumerate(pairs):
            found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return found

    @property
    def url_table(self) -> str | None:
        """The web mirrors as JSON, prefix to prefix, for downloads in a build."""
        table = {key: url for key, url in self.git.items() if urlsplit(url).scheme in WEB_SCHEMES}
        return json.dumps(table) if table else None

    @property
    def apt_script(self) -> str | None:
        """A script for sed that turns the base image's own apt sources to the mirror."""
        if self.apt is None:
            return None
        # `#` parts the command: an address with one is not accepted.
        mirror = self.apt.replace("\\", r"\\").replace("&", r"\&")
        folders = r"\|".join(APT_FOLDERS)
        return rf"s#https\{{0,1\}}://[^/ ]*/\({folders}\)\([/ ]\|$\)#{mirror}\1\2#g" + "\n"

    def rewrite(self, url: str) -> str:
        """A web address as a download asks for it: by its host's mirror where there is one."""
        for public, mirror in self.git.items():
            if url.startswith(public) and urlsplit(mirror).scheme in WEB_SCHEMES:
                return mirror + url[len(public) :]
        return url


def spellings(public: str) -> tuple[str, ...]:
    """Every prefix under which git addresses a host's repositories."""
    host = urlsplit(public).hostname or ""
    return (public, f"http://{host}/", f"git@{host}:", f"ssh://git@{host}/", f"git://{host}/")


def base_ref(ref: str, mirrors: Mirrors) -> str:
    """The reference under which a mirror of Docker Hub holds an image, digest and tag kept.

    ``debian:bookworm`` is ``MIRROR/library/debian:bookworm``, ``nvidia/cuda:…`` is
    ``MIRROR/nvidia/cuda:…``; an image of another registry stays as it is.
    """
    if mirrors.registry is None:
        return ref
    first, slash, rest = ref.partition("/")
    if slash and first in DOCKER_HUB:
        ref = rest
    elif slash and ("." in first or ":" in first or first == "localhost"):
        return ref
    return f"{mirrors.registry}/{ref if '/' in ref else f'library/{ref}'}"


def load(options: Sequence[str], environ: Mapping[str, str]) -> Mirrors:
    """The mirrors of the command line (``NAME=URL``, also by commas) and of the config file.

    Raises:
        UsageFault: an option, an address or the file is not what it should be.
    """
    path, named = config_path(environ)
    chosen = _from_file(path, named)
    for option in options:
        # A comma belongs to an address unless a name and an equals sign follow it.
        for item in re.split(r",(?=[A-Za-z0-9.-]+=)", option):
            name, equals, url = item.partition("=")
            if not equals or not name.strip() or not url.strip():
                raise UsageFault(f"--mirror {item!r} is not NAME=URL", hint=EXAMPLE)
            chosen[name.strip()] = (url.strip(), "--mirror")
    return _typed(chosen)


def config_path(environ: Mapping[str, str]) -> tuple[Path, bool]:
    """Where the user's configuration is, and whether the user said so (then it must be there)."""
    if named := environ.get("GPT_FRONTEND_CONFIG"):
        return Path(named).expanduser(), True
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~", ".config")
    return Path(home).expanduser() / "gpt-frontend" / "config.toml", False


def _from_file(path: Path, named: bool) -> dict[str, tuple[str, str]]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file).get("mirrors", {})
    except FileNotFoundError as error:
        if named:
            raise UsageFault(
                f"GPT_FRONTEND_CONFIG={path} is not there", hint="unset it, or write the file"
            ) from error
        return {}
    except (OSError, ValueError) as error:
        raise UsageFault(f"cannot read {path}: {error}", hint="it is a TOML file") from error
    if not isinstance(table, dict):
        raise UsageFault(f"{path}: mirrors is not a table", hint='[mirrors]\ngithub = "URL"')
    for name, url in _flat(table):
        if not isinstance(url, str):
            raise UsageFault(f"{path}: [mirrors] {name} is not a text", hint=f'{name} = "URL"')
    return {name: (str(url), str(path)) for name, url in _flat(table)}


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    """The table's keys; ``gitlab.com = "URL"`` without quotes is a table in a table to TOML."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _typed(chosen: Mapping[str, tuple[str, str]]) -> Mirrors:
    git: dict[str, str] = {}
    others: dict[str, str] = {}
    for name, (url, where) in chosen.items():
        if name == "registry":
            others[name] = _registry(url, where)
        elif name in ("apt", "pip"):
            address = _address(name, url, WEB_SCHEMES, where)
            others[name] = f"{address}/" if name == "apt" else address
        else:
            host = GIT_HOSTS.get(name, name).lower()
            if not HOST.fullmatch(host):
                raise UsageFault(
                    f"{where}: {name!r} is no mirror's name",
                    hint="github, apt, pip, registry or a git host's name: gitlab.com",
                )
            git[f"https://{host}/"] = f"{_address(name, url, GIT_SCHEMES, where)}/"
    return Mirrors(git, others.get("apt"), others.get("pip"), others.get("registry"))


def _address(name: str, url: str, schemes: Sequence[str], where: str) -> str:
    """A checked address without the slash at its end. Never repeated: it may hold a password."""
    if url.startswith(("file:", "/", ".", "~")):
        raise UsageFault(
            f"{where}: the mirror {name} is a folder, which a build cannot see",
            hint="--mirror-folder DIR for what `invoke mirror` made; else serve it by HTTP",
        )
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or parts.scheme not in schemes or re.search(r"[\s\"'\\<>#`|\0-\x1f]", url):
        raise UsageFault(
            f"{where}: the mirror {name} is not an address ({', '.join(schemes)})", hint=EXAMPLE
        )
    return url.rstrip("/")


def _registry(url: str, where: str) -> str:
    plain = re.sub("^https?://", "", url).rstrip("/")
    if "@" in plain:
        raise UsageFault(
            f"{where}: the mirror registry has a user or a password in it",
            hint="docker login HOST, then --mirror registry=HOST",
        )
    # A first part without dot or port would be a folder of Docker Hub.
    if not REGISTRY.fullmatch(plain) or not re.match(r"localhost\b|[^/]*[.:]", plain):
        raise UsageFault(
            f"{where}: the mirror registry is not HOST[:PORT][/PATH]",
            hint="for example --mirror registry=mirror.example:5000",
        )
    return plain
