"""The hashed locks, resolved anew in a copy of docker/locks, so that nothing is half written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.build.fetch.fault import masked
from bench.host.lock.agreement import HASH, SPLIT, drift, pinned
from bench.host.lock.part import Change, Part, Unasked
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins

TIMEOUT_S = 900
# The lines of the resolver's last words that are told.
_OF_A_RESOLVER = 3
_LISTED = re.compile(r" \\\n +--hash=sha256:[0-9a-f]{64}")


def resolve(
    pins: Pins, root: Path, mirrors: Mirrors, environ: Mapping[str, str], *, offline: bool
) -> Part:
    """Hold the locks against their lists and the pins, and (online) against a new resolution.

    Versions that are locked and still fit stay, so that what changes is what has to: a list that
    was edited, a hash that the index now has beside the locked ones.
    """
    part = Part("python")
    locks = root / "docker" / "locks"
    found = drift(pins, locks)
    if offline:
        part.drift += found
        part.same += [] if found else ["docker/locks: lists, locks and pins agree"]
        return part
    with tempfile.TemporaryDirectory(prefix="gpt-frontend-lock-") as name:
        copy = Path(name, "docker", "locks")
        shutil.copytree(locks, copy)
        shutil.copy2(root / "pyproject.toml", name)
        for path in _made(copy):
            # The resolver repeats the hashes that it finds, and asks for those that are missing.
            path.write_text(_LISTED.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")
        why = _run(copy, mirrors, environ, _moved(pins, locks))
        if why is not None:
            part.drift += found
            part.unasked.append(Unasked("docker/locks", why))
            return part
        # What a new resolution mends is a change; what it leaves is for a person.
        part.drift += drift(pins, copy)
        for path in sorted(copy.glob("*.txt")):
            before = locks / path.name
            old = before.read_text(encoding="utf-8") if before.exists() else ""
            new = path.read_text(encoding="utf-8")
            if old == new:
                part.same.append(f"docker/locks/{path.name}")
            else:
                part.files[before] = new
                part.changes += compared(f"docker/locks/{path.name}", old, new)
    return part


def _made(locks: Path) -> list[Path]:
    """The files that update.sh writes."""
    lists = [one.with_suffix(".txt") for one in locks.glob("*.in") if one.stem != "requirements"]
    return [one for one in (*(locks / name for name in SPLIT), *lists) if one.exists()]


def compared(place: str, old: str, new: str) -> list[Change]:
    """What a new lock does otherwise, package by package."""
    before, after = packages(old), packages(new)
    found = []
    for name in sorted({*before, *after}):
        was, now = before.get(name, {}), after.get(name, {})
        if was == now:
            continue
        earlier, later = (", ".join(sorted(one)) or "(none)" for one in (was, now))
        if earlier != later:
            meaning = f"{name} would be installed in another version"
            if not was or not now:
                meaning = f"{name} is new" if now else f"{name} is needed no more"
        else:
            gone = {h for v in was for h in was[v] - now.get(v, set())}
            more = {h for v in now for h in now[v] - was.get(v, set())}
            meaning = f"files of the same version: {len(more)} more, {len(gone)} gone"
            if gone:
                meaning += "; one that is gone was deleted or replaced on the index"
        found.append(Change(f"{place}: {name}", earlier, later, meaning))
    return found or [Change(place, "as it is", "other comments or order", "no package changes")]


def packages(text: str) -> dict[str, dict[str, set[str]]]:
    """Name to version to hashes."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if entry := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", line):
            hashes = {one.strip().partition(":")[2] for one in HASH.findall(line)}
            found.setdefault(entry[1], {}).setdefault(entry[2], set()).update(hashes)
    return found


def _moved(pins: Pins, locks: Path) -> list[str]:
    """Options that let the resolver leave a locked version for the one that the pins name now."""
    found = {}
    for _, version, file, package in pinned(pins):
        # tvm-ffi has a version for each TVM: its lists name it.
        if package != "apache-tvm-ffi" and (locks / file).exists():
            locked = packages((locks / file).read_text(encoding="utf-8")).get(package, {})
            if set(locked) != {version}:
                found[package] = version
    return [word for one in found.items() for word in ("--upgrade-package", "==".join(one))]


def _run(
    copy: Path, mirrors: Mirrors, environ: Mapping[str, str], options: list[str]
) -> str | None:
    """Run update.sh there; None where it ended well, else why not."""
    told = {**environ, "PYTHON": sys.executable}
    told.setdefault("UV", str(Path(sys.executable).with_name("uv")))
    if mirrors.pip:
        told["UV_DEFAULT_INDEX"] = mirrors.pip
    try:
        done = subprocess.run(
            ["sh", str(copy / "update.sh"), *options],
            env=told,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"update.sh: {type(error).__name__}"
    if done.returncode == 0:
        return None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return masked(" ".join(said[-_OF_A_RESOLVER:]) or f"exit status {done.returncode}")[:400]
