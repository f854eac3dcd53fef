"""The verbs, put together: `invoke --list` and `--help` teach them, bench/tasks/ holds them."""

from __future__ import annotations

import sys
from pathlib import Path

# Written by `make setup` and by the image's build: what runs here is what the locks say.
if not (Path(sys.prefix) / ".gpt-frontend-lock").is_file():
    print(f"error: this Python ({sys.prefix}) was not set up for gpt-frontend", file=sys.stderr)
    print("hint: make setup", file=sys.stderr)
    sys.exit(2)

from bench.tasks.history import bisect, compare, export, results
from bench.tasks.images import (
    base_image,
    build_image,
    matrix,
    mirror,
    verify_image,
)
from bench.tasks.jobs import bench, compile, evaluate, generate, train
from bench.tasks.locks import lock, update
from bench.tasks.profile import profile
from bench.tasks.report import report
from bench.tasks.runs import clean, doctor, show
from bench.tasks.supply import load, pull, push, rerun, save, sbom
from bench.tasks.sweep import sweep
from bench.tasks.tune import tune
from bench.tasks.workplace import devcontainer, shell

__all__ = [
    "base_image",
    "bench",
    "bisect",
    "build_image",
    "clean",
    "compare",
    "compile",
    "devcontainer",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "load",
    "lock",
    "matrix",
    "mirror",
    "profile",
    "pull",
    "push",
    "report",
    "rerun",
    "results",
    "save",
    "sbom",
    "shell",
    "show",
    "sweep",
    "train",
    "tune",
    "update",
    "verify_image",
]
