"""A machine played back from a recording, for doctor's tests.

A recording is a TOML file, written from what the commands print: here, or in the report that
``source`` names. ``like`` names another that it starts from; a table adds to that one's
table, and ``false`` takes a program, file, command or variable away. What is asked and was not
recorded is an error, so that no check passes by looking at nothing.

    [machine]    python, prefix, include, architecture, memory_gib, cores, lacks (modules), now
    [environ]    NAME = value
    [programs]   name = path: on the PATH. Any other program is missing
    [files]      path = text: there. Any other file is not
    [free_gib]   path = GiB free on its file system; "/" for all others
    [commands]   "argv joined by spaces" = {code, out, err}
    [tcp]        "address:port" = "" where it answers, else the error
    [http]       "url" = {status, date, error}; PIP_INDEX is where pip looks by itself
    [engine]     fault, hint; or url, source, gateway, info = {…} and gpu = {refusal, said}
    [[expect]]   check, level, and words of seen, why and remedy
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from bench.errors import UsageFault
from bench.host.doctor import network
from bench.host.doctor.machine import MISSING, EngineSeen, GpuAnswer, Ran
from bench.host.doctor.web import Answer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GIB = 2**30
FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def recording(name: str) -> dict[str, Any]:
    """The recording of that name, whole: laid over the one that it is like."""
    own = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return _over(recording(own["like"]), own) if "like" in own else own


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``. A command, an answer and a GPU's are whole things."""
    merged = dict(below)
    for key, value in above.items():
        table = isinstance(value, dict) and isinstance(below.get(key), dict)
        whole = table and {"out", "err", "code", "status", "error", "refusal", "said"} & set(value)
        merged[key] = _over(below[key], value) if table and not whole else value
    return merged


class RecordedEngine:
    """The engine of a recording."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.url: str = data["url"]
        self.source: str = data["source"]
        self.info: Mapping[str, Any] = data["info"]
        self._data = data

    def cli_environ(self) -> Mapping[str, str]:
        return {"DOCKER_HOST": self.url}

    def gateway(self) -> str | None:
        found: str | None = self._data.get("gateway")
        return found

    def try_gpu(self) -> GpuAnswer:
        gpu = self._data["gpu"]
        return GpuAnswer(gpu.get("refusal"), gpu.get("said", ""))


@dataclass
class RecordedHost:
    """A machine played back."""

    data: Mapping[str, Any]
    environ: Mapping[str, str]
    asked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, environ: Mapping[str, str]) -> RecordedHost:
        """The machine of a recording, with variables of the test's own over the recorded ones."""
        data = recording(name)
        recorded = {key: value for key, value in data["environ"].items() if value is not False}
        return cls(data, {**recorded, **environ})

    def run(
        self, argv: Sequence[str], timeout: float = 10, environ: Mapping[str, str] | None = None
    ) -> Ran:
        line = " ".join(argv)
        self.asked.append(line)
        if argv[0] != "python" and not argv[0].startswith("/") and not self.which(argv[0]):
            return Ran(MISSING, "", f"{argv[0]}: No such file or directory")
        done = self._of("commands", line)
        return Ran(done.get("code", 0), done.get("out", ""), done.get("err", ""))

    def read(self, path: str) -> str | None:
        text = self.data["files"].get(path, False)
        return None if text is False else str(text)

    def exists(self, path: str) -> bool:
        below = f"{path.rstrip('/')}/"
        files = {name for name, text in self.data["files"].items() if text is not False}
        return path in files or any(name.startswith(below) for name in files)

    def which(self, name: str) -> str | None:
        return self.data["programs"].get(name) or None

    def free_bytes(self, path: str) -> int | None:
        free: Mapping[str, float] = self.data["free_gib"]
        return int(free.get(path, free["/"]) * GIB)

    def memory_bytes(self) -> int:
        return int(self._machine("memory_gib") * GIB)

    def cores(self) -> int:
        return int(self._machine("cores"))

    def architecture(self) -> str:
        return str(self._machine("architecture"))

    def python_version(self) -> str:
        return str(self._machine("python"))

    def python_prefix(self) -> str:
        return str(self._machine("prefix"))

    def include_dir(self) -> str:
        return str(self._machine("include"))

    def importable(self, module: str) -> bool:
        return module not in self._machine("lacks")

    def now(self) -> datetime:
        now = self._machine("now")
        assert isinstance(now, datetime) and now.tzinfo is not None
        return now

    def home(self) -> str:
        return str(self.environ["HOME"])

    def tcp(self, address: str, port: int, timeout: float) -> str | None:
        self.asked.append(f"{address}:{port}")
        error = self._of("tcp", f"{address}:{port}")
        return str(error) or None

    def http(self, url: str, timeout: float, ca_file: str | None) -> Answer:
        self.asked.append(url)
        told = self._of("http", "PIP_INDEX" if url == network.PIP_INDEX else url)
        if "error" in told:
            return Answer(None, told["error"])
        date = parsedate_to_datetime(told["date"]) if "date" in told else None
        return Answer(told["status"], date=date, at=self.now())

    def engine(self) -> EngineSeen:
        engine = self.data["engine"]
        if "fault" in engine:
            raise UsageFault(engine["fault"], hint=engine["hint"])
        return RecordedEngine(engine)

    def _machine(self, key: str) -> Any:
        return self._of("machine", key)

    def _of(self, table: str, key: str) -> Any:
        found = self.data[table].get(key, False)
        assert found is not False, f"not recorded: {table}: {key}"
        return found
