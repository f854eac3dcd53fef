"""`.devcontainer/devcontainer.json` as a `docker run`: an editor and a terminal get the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageFault

VARIABLE = re.compile(r"\$\{([^}]*)\}")
# Whole lines only: a comment behind a value is not needed, and // is in every address.
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
# Those that say what a container is, each with its part of the command below. What an editor
# alone reads is known too, so that a new property is not left out of `invoke shell` unseen.
READ = frozenset(
    {
        "image",
        "containerUser",
        "workspaceMount",
        "workspaceFolder",
        "init",
        "capAdd",
        "runArgs",
        "mounts",
        "containerEnv",
        "hostRequirements",
        "postCreateCommand",
    }
)
FOR_EDITORS = frozenset(
    {
        "name",
        "initializeCommand",
        "remoteUser",
        "updateRemoteUserUID",
        "userEnvProbe",
        "customizations",
    }
)


@dataclass(frozen=True)
class Description:
    """A devcontainer.json with its variables filled in."""

    values: Mapping[str, Any]

    @property
    def mounts(self) -> tuple[str, ...]:
        """Every mount, as `docker run --mount` takes it; the checkout's first."""
        return (self.values["workspaceMount"], *self.values["mounts"])

    def volume_at(self, target: str) -> str:
        """The name of the volume that is mounted at ``target``.

        Raises:
            UsageFault: none is.
        """
        for mount in self.mounts:
            fields = dict(field.partition("=")[::2] for field in mount.split(","))
            if fields.get("type") == "volume" and fields.get("target") == target:
                return fields["source"]
        raise UsageFault(f"devcontainer.json mounts no volume at {target}", hint=RESTORE)

    def command(self, words: Sequence[str], *, terminal: bool, gpu: bool) -> list[str]:
        """`docker run` of ``words`` in a container that is gone afterwards."""
        values = self.values
        argv = ["docker", "run", "--rm", "--user", values["containerUser"]]
        argv += ["-it"] if terminal else []
        argv += ["--init"] if values["init"] else []
        argv += values["runArgs"]
        for name in values["capAdd"]:
            argv += ["--cap-add", name]
        for mount in self.mounts:
            argv += ["--mount", mount]
        for name, value in values["containerEnv"].items():
            argv += ["--env", f"{name}={value}"]
        if gpu and values["hostRequirements"].get("gpu"):
            argv += ["--gpus", "all"]
        argv += ["--workdir", values["workspaceFolder"], values["image"]]
        if first := values["postCreateCommand"]:
            # This container is always a new one.
            return [*argv, "sh", "-c", f'{first} && exec "$@"', "sh", *words]
        return [*argv, *words]


RESTORE = "git checkout .devcontainer/devcontainer.json"


def load(path: Path, root: Path, environ: Mapping[str, str]) -> Description:
    """Read a devcontainer.json for the checkout ``root``.

    Raises:
        UsageFault: it cannot be read, says something that is not known here, or lacks something.
    """
    try:
        values = json.loads(COMMENT.sub("", path.read_text(encoding="utf-8")))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise UsageFault(f"cannot read {path}: {error}", hint=RESTORE) from error
    if unknown := set(values) - READ - FOR_EDITORS:
        raise UsageFault(
            f"`invoke shell` does not know what {', '.join(sorted(unknown))} in {path} means",
            hint="teach it in bench/host/workplace/container.py, so that both places stay the same",
        )
    if missing := READ - set(values):
        raise UsageFault(f"{path} does not say {', '.join(sorted(missing))}", hint=RESTORE)
    known = {
        "localWorkspaceFolder": str(root),
        "localWorkspaceFolderBasename": root.name,
        "containerWorkspaceFolder": str(values["workspaceFolder"]),
    }

    def fill(found: re.Match[str]) -> str:
        kind, *rest = found[1].split(":")
        if kind == "localEnv" and rest:
            return environ.get(rest[0], ":".join(rest[1:]))
        if kind not in known:
            raise UsageFault(f"unknown variable in {path}: {found[0]}", hint=RESTORE)
        return known[kind]

    return Description({key: _filled(values[key], fill) for key in READ})


def _filled(value: Any, fill: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(value, str):
        return VARIABLE.sub(fill, value)
    if isinstance(value, list):
        return [_filled(one, fill) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, fill) for key, one in value.items()}
    return value
