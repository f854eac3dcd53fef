"""What a job may take of the machine, beside its time; docs/container.md says it to users.

From ``--limits NAME=VALUE,…`` and the table [limits] of the user's configuration file. The
command line counts.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.errors import UsageFault
from bench.host.mirrors import config_path
from bench.limits import memory_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GIB = 2**30
DISK = 20 * GIB
EXAMPLE = "as in --limits memory=8g,disk=10g; docs/container.md has them all"

_TMP = 4 * GIB
_LEFT_FREE = 64 * 2**20  # of the disk, for the record and the report of a job that was stopped
_RESERVE = 512 * 2**20
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
# Of each, the least that anything can start with.
_SIZES = {"memory": 32 * 2**20, "disk": 2**20, "file": 2**20, "tmp": 2**20}


@dataclass(frozen=True)
class Limits:
    """The bounds of one job; sizes in bytes. None where the user named none.

    Attributes:
        memory: of all its processes, /tmp and /dev/shm included; swap gives no more.
        pids: processes and threads at a time.
        cpus: cores' worth of time.
        disk: what the run directory holds, and by how much the store grows.
        file: the largest file.
        tmp: /tmp.
        names: files and directories in the run directory.
    """

    memory: int | None = None
    pids: int = 4096
    cpus: float | None = None
    disk: int | None = None
    file: int | None = None
    tmp: int | None = None
    names: int = 100_000

    @property
    def budget(self) -> int:
        """The disk budget, where none was worked out for the run too."""
        return self.disk or DISK

    def on(self, machine_bytes: int) -> Limits:
        """With the memory that an engine's machine of so much can spare, unless it was named."""
        total = min(machine_bytes or sys.maxsize, memory_bytes())
        memory = self.memory or total - min(max(total // 16, _RESERVE), total // 2)
        return replace(self, memory=memory, tmp=self.tmp or min(_TMP, memory // 2))

    def of_run(self, needed_bytes: int, free_bytes: int) -> Limits:
        """With a disk budget for a run that needs so much, never more than the disk has free."""
        wanted = self.disk or max(DISK, 2 * needed_bytes)
        disk = max(min(wanted, free_bytes - _LEFT_FREE), _SIZES["disk"])
        return replace(self, disk=disk, file=min(self.file or disk, disk))


def load(option: str | None, environ: Mapping[str, str]) -> Limits:
    """The limits of the command line and of the configuration file.

    Raises:
        UsageFault: no such limit, or a value that cannot be one.
    """
    limits = Limits()
    for name, value, where in (*_from_file(environ), *_from_option(option)):
        limits = _with(limits, name, value, where)
    return limits


def size(count: int) -> str:
    """A number of bytes for people, as ``--limits`` would take it but for the space."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def _from_option(option: str | None) -> list[tuple[str, str, str]]:
    found = []
    for item in filter(None, (option or "").split(",")):
        name, _, value = item.partition("=")
        found.append((name.strip(), value.strip(), "--limits"))
    return found


def _from_file(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    path, named = config_path(environ)
    try:
        with path.open("rb") as file:
            table = tomllib.load(file).get("limits", {})
    except FileNotFoundError as error:
        if named:
            raise UsageFault(
                f"GPT_FRONTEND_CONFIG={path} is not there", hint="unset it, or write the file"
            ) from error
        return []
    except (OSError, ValueError) as error:
        raise UsageFault(f"cannot read {path}: {error}", hint="it is a TOML file") from error
    if not isinstance(table, dict):
        raise UsageFault(f"{path}: limits is not a table", hint='[limits]\nmemory = "8g"')
    return [(str(name), str(value), f"{path}: [limits]") for name, value in table.items()]


def _with(limits: Limits, name: str, value: str, where: str) -> Limits:
    if name in _SIZES:
        return replace(limits, **{name: _size(name, value, where)})
    if name == "pids":
        if not re.fullmatch(r"\d{1,7}", value) or int(value) < 8:
            raise UsageFault(f"{where} pids={value}: not a number from 8", hint=EXAMPLE)
        return replace(limits, pids=int(value))
    if name == "cpus":
        try:
            cpus = float(value)
        except ValueError:
            cpus = math.nan
        if not 0.01 <= cpus <= 4096:
            raise UsageFault(f"{where} cpus={value}: not a number of cores", hint=EXAMPLE)
        return replace(limits, cpus=cpus)
    known = ", ".join((*_SIZES, "pids", "cpus"))
    raise UsageFault(f"{where}: no limit {name!r}", hint=f"one of: {known}")


def _size(name: str, value: str, where: str) -> int:
    told = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([kmgt]?)(?:i?b)?", value.lower())
    found = int(float(told[1]) * _UNITS[told[2]]) if told else 0
    if found < _SIZES[name]:
        least = size(_SIZES[name])
        raise UsageFault(f"{where} {name}={value}: not a size from {least}", hint=EXAMPLE)
    return found
