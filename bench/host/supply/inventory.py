"""What is in an image, listed inside a container of it: ``python inventory.py OUT.json``.

A program of the standard library alone, laid beside the container's other files: so any image can
be asked, older ones too, and asking changes none. What it says is what the image's own databases
say: dpkg's status file, the metadata of the Python packages, the facts of a build from source.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from email.message import Message

_DEP5 = re.compile(
    r"^Format(?:-Specification)?:\s*\S*copyright-format|^Format:\s*\S*dep\.debian", re.I
)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z][A-Za-z0-9.+-]*)")
_LARGEST = 4 * 2**20
_LLVM = "from tvm.target import codegen; print('llvm', codegen.llvm_version_major(allow_none=True))"
_LLVM_S = 120


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a Debian control file, each a field to its value, all its lines."""
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t"):
                if name:
                    fields[name] += f"\n{line.strip()}"
            elif ":" in line and not line.startswith("#"):
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields:
            yield fields


def licences(text: str) -> list[str]:
    """The licences that a Debian copyright file names, as Debian spells them, sorted.

    Of a machine-readable file (DEP 5) those of its files; of another one those of
    /usr/share/common-licenses that it points to.
    """
    head = "\n".join(line for line in text.lstrip("\ufeff\n").splitlines()[:3])
    if not any(_DEP5.match(line) for line in head.splitlines()):
        return sorted({name.rstrip(".") for name in _COMMON.findall(text)})
    found = set()
    for fields in paragraphs(text):
        if "license" in fields and ("files" in fields or "format" in fields):
            name = " ".join(fields["license"].split("\n")[0].split())
            if name:
                found.add(name)
    return sorted(found)


def packages(root: Path) -> list[dict[str, Any]]:
    """dpkg's packages under ``root`` that are installed."""
    try:
        status = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []  # no distribution of Debian's
    found = []
    for fields in paragraphs(status):
        if fields.get("status", "").split()[-1:] != ["installed"]:
            continue
        name = fields["package"]
        # "Source: glibc (2.36-9)" where its version is not the package's.
        source, _, version = fields.get("source", name).partition(" ")
        found.append(
            {
                "name": name,
                "version": fields["version"],
                "architecture": fields.get("architecture", ""),
                "source": source,
                "source_version": version.strip("()") or fields["version"],
                "homepage": fields.get("homepage", ""),
                "licences": licences(_text(root / "usr/share/doc" / name / "copyright")),
            }
        )
    return sorted(found, key=lambda one: (one["name"], one["architecture"]))


def distributions() -> list[dict[str, Any]]:
    """The Python packages of the environment that runs this, as pip lists them."""
    found: dict[str, dict[str, Any]] = {}
    for one in importlib.metadata.distributions():
        # A message as of e-mail; the interface that importlib.metadata promises is smaller.
        about = cast("Message", one.metadata)
        name = about["Name"]
        key = re.sub(r"[-_.]+", "-", name or "").lower()
        if not name or key in found:  # the first on the path is the one that is imported
            continue
        found[key] = {
            "name": name,
            "version": one.version,
            "expression": about.get("License-Expression") or "",
            "licence": about.get("License") or "",
            "classifiers": [
                line.rpartition("::")[2].strip()
                for line in about.get_all("Classifier") or []
                if line.startswith("License ::")
            ],
            "homepage": about.get("Home-page") or _homepage(about.get_all("Project-URL") or []),
        }
    return [found[key] for key in sorted(found)]


def os_release(root: Path) -> dict[str, str]:
    """What the distribution calls itself."""
    found = {}
    for line in _text(root / "etc/os-release").splitlines():
        name, separator, value = line.partition("=")
        if separator:
            found[name] = value.strip().strip("\"'")
    return found


def repositories(root: Path) -> list[dict[str, str]]:
    """The private repositories that were cloned into the image: name and commit."""
    found = []
    for head in sorted(root.glob("opt/private/*/.git/HEAD")):
        found.append({"name": head.parents[1].name, "commit": _text(head).strip()})
    return found


def llvm() -> str | None:
    """The major version of the LLVM that the installed TVM was linked with."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LLVM], capture_output=True, text=True, timeout=_LLVM_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = re.search(r"^llvm (\d+)$", done.stdout, re.MULTILINE)
    return said[1] if said else None


def collect(root: Path = Path("/")) -> dict[str, Any]:
    """Everything, as the host reads it (``bench.host.supply.contents``)."""
    built = _text(root / "opt/gpt-frontend/built/facts.json")
    return {
        "os_release": os_release(root),
        "packages": packages(root),
        "distributions": distributions(),
        "repositories": repositories(root),
        "built": json.loads(built) if built else None,
        "llvm": llvm(),
        "cuda": _text(root / "usr/local/cuda/version.json").strip() or None,
        "toolkit": (root / "usr/local/cuda/bin/nvcc").exists(),
    }


def _homepage(urls: list[str]) -> str:
    named = {name.strip().lower(): url.strip() for name, _, url in (u.partition(",") for u in urls)}
    return next((named[key] for key in ("homepage", "source", "repository") if key in named), "")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(collect()), encoding="utf-8")
