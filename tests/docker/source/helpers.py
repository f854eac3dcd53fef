"""Images and files of the tests' own, built in the engine with the host's network settings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.host import network
from bench.host.engine.endpoint import Endpoint

ROOT = Path(__file__).resolve().parents[3]


def build(
    endpoint: Endpoint, dockerfile: str, arguments: Mapping[str, str], output: tuple[str, ...]
) -> None:
    """Build a Dockerfile that may mount docker/apt-install.sh; ``output`` as buildx takes it."""
    environ = endpoint.cli_environ(os.environ)
    argv = ["docker", "buildx", "build", "--builder", "default", "--progress", "plain"]
    argv += ["--provenance=false", "--file", "-", *output]
    for name, value in arguments.items():
        argv += ["--build-arg", f"{name}={value}"]
    with network.secret_files(network.collect(os.environ)) as secrets:
        for name, path in secrets.items():
            argv += ["--secret", f"id={name},src={path}"]
        done = subprocess.run(
            [*argv, str(ROOT / "docker")],
            input=dockerfile,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    assert done.returncode == 0, done.stdout[-4000:]
