"""What runs have left, and what this machine has and lacks."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.options import JOB


@verb(help={"run": "a run's id or part of it, `last`, or its directory", "out": JOB["out"]})
def show(c: Context, run: str, out: str = "results") -> None:
    """Print one run: its table, its environment, and why anything failed."""
    help_if_asked(run, "show")
    from bench.host import verbs

    verbs.show_run(run, Path(out))


@verb(
    help={
        "images": "also remove the images that build-image made",
        "tuning": "also remove what `invoke tune` found",
        "out": JOB["out"],
    }
)
def clean(c: Context, images: bool = False, tuning: bool = False, out: str = "results") -> None:
    """Remove compiled artefacts, abandoned partial runs and dead containers; never results."""
    from bench.host import verbs

    verbs.clean(Path(out), images=images, tuning=tuning)


@verb(
    help={
        "profile": "measure the machine by what this profile's build needs",
        "json": "print the findings as JSON",
    }
)
def doctor(c: Context, profile: str | None = None, json: bool = False) -> None:
    """Say what this machine has and lacks, and the command that mends it; exit 1 if blocked."""
    from bench.host import verbs

    verbs.doctor(profile, as_json=json)
