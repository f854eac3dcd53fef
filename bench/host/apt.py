"""This machine's apt sources, as far as they are its distribution's own.

A third party's entry is left out: its key is not in a base image, and nothing here needs it.
Format: sources.list(5), one line an entry or deb822 stanzas.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ETC = Path("/etc")
OWN_KEYRING = re.compile(r"/usr/share/keyrings/(debian|ubuntu)-archive-keyring\.(gpg|pgp)")


@dataclass(frozen=True)
class Entry:
    """One source of binary packages. ``signed_by`` is a keyring's path, where one is given."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None

    @property
    def line(self) -> str:
        """The entry in one-line form."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True)
class Release:
    """A distribution and its suite: ``debian`` and ``bookworm``."""

    distribution: str
    suite: str


def release(etc: Path = ETC) -> Release | None:
    """What this machine runs, from os-release; None where that does not say."""
    try:
        text = (etc / "os-release").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    name, suite = ("".join(shlex.split(fields.get(key, ""))) for key in ("ID", "VERSION_CODENAME"))
    return Release(name, suite) if name and suite else None


def own_entries(etc: Path = ETC) -> list[Entry]:
    """The entries for this machine's suite, its updates and its security updates, in file order."""
    here = release(etc)
    if here is None:
        return []
    suites = [here.suite, f"{here.suite}-updates", f"{here.suite}-security"]
    return [
        entry
        for entry in _all_entries(etc / "apt")
        if entry.suite in suites
        and re.match("https?://", entry.uri)
        and (entry.signed_by is None or OWN_KEYRING.fullmatch(entry.signed_by))
    ]


def sources_list(etc: Path = ETC) -> str | None:
    """The own entries as one file, under a line that names the release; None if there are none.

    docker/Dockerfile takes it only where the base is that very release.
    """
    here, entries = release(etc), own_entries(etc)
    if here is None or not entries:
        return None
    head = f"# {here.distribution} {here.suite}"
    return "\n".join([head, *(entry.line for entry in entries), ""])


def _all_entries(apt: Path) -> Iterator[Entry]:
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                yield from _from_line(line)
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        text = path.read_text(encoding="utf-8", errors="replace")
        text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
        for stanza in re.split(r"\n\s*\n", text):
            yield from _from_stanza(stanza)


def _from_line(line: str) -> Iterator[Entry]:
    found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
    if found:
        options, uri, suite, components = found.groups()
        signed = re.search(r"signed-by=(\S+)", options or "")
        yield Entry(uri, suite, tuple(components.split()), signed[1] if signed else None)


def _from_stanza(stanza: str) -> Iterator[Entry]:
    # A field goes on over lines that begin with a blank; an embedded key does so too.
    fields = {
        key.lower(): value.split()
        for key, value in re.findall(r"^([\w-]+):((?:.*\n?)(?:[ \t].*\n?)*)", stanza, re.MULTILINE)
    }
    if "deb" not in fields.get("types", []) or fields.get("enabled") in (["no"], ["false"]):
        return
    signed = " ".join(fields.get("signed-by", [])) or None
    for uri in fields.get("uris", []):
        for suite in fields.get("suites", []):
            yield Entry(uri, suite, tuple(fields.get("components", [])), signed)
