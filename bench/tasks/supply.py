"""Where images are from, and runs repeated in the very same one."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.options import JOB


@verb(
    help={
        "run": "a run's id or part of it, `last`, its directory, or a record.json",
        "weights": "the record's checkpoint, where it is not where the record says",
        "archive": "what `invoke save` wrote, to take the record's image from if it is not here",
        "registry": "HOST/NAME, to pull the record's image from by its digest if it is not here",
        "allow": "image: run in another image where the record's cannot be had, and say so",
        "json": "print what came of it as JSON",
        "limits": JOB["limits"],
        "out": JOB["out"],
    }
)
def rerun(
    c: Context,
    run: str,
    weights: str | None = None,
    archive: str | None = None,
    registry: str | None = None,
    allow: str = "",
    json: bool = False,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Repeat a recorded benchmark in its very image, and compare: image, parity, timings."""
    help_if_asked(run, "rerun")
    from bench.host.supply import again

    again.rerun(
        run,
        Path(out),
        weights=weights,
        archive=Path(archive) if archive else None,
        place=registry,
        allow=[name.strip() for name in allow.split(",") if name.strip()],
        bounds=limits,
        as_json=json,
    )


@verb(
    help={
        "image": "a tag or an id (default: the newest that build-image made)",
        "format": "json (default) or xml: CycloneDX 1.6; licences: a page of Markdown",
        "to": "the file to write (default: beside the image's contract, in results/contracts)",
    }
)
def sbom(c: Context, image: str | None = None, format: str = "json", to: str | None = None) -> None:
    """Write what is in an image, as a software bill of materials with licences."""
    from bench.host.supply import verbs

    verbs.bill(image, Path(to) if to else None, format)


@verb(
    help={
        "file": "the archive to write: FILE.tar",
        "image": "a tag (default: the newest that build-image made)",
    }
)
def save(c: Context, file: str, image: str | None = None) -> None:
    """Save an image, its contract, bill of materials and provenance in one file."""
    help_if_asked(file, "save")
    from bench.host.supply import verbs

    verbs.save(image, Path(file))


@verb(
    help={
        "file": "an archive that `invoke save` wrote",
        "digest": "the sha256:… that its image must have",
    }
)
def load(c: Context, file: str, digest: str | None = None) -> None:
    """Verify an archive and load its image, ready for jobs; nothing is built."""
    help_if_asked(file, "load")
    from bench.host.supply import verbs

    verbs.load(Path(file), digest)


@verb(
    help={
        "to": "the registry's repository: HOST/NAME",
        "image": "a tag or an id (default: the newest that build-image made)",
    }
)
def push(c: Context, to: str, image: str | None = None) -> None:
    """Push an image with what is known of it, and print the digest by which it is had again."""
    help_if_asked(to, "push")
    from bench.host.supply import verbs

    verbs.push(image, to)


@verb(help={"name": "HOST/NAME@sha256:…, as `invoke push` prints it"})
def pull(c: Context, name: str) -> None:
    """Pull an image by its digest with what is known of it, check its contract, make it ready."""
    help_if_asked(name, "pull")
    from bench.host.supply import verbs

    verbs.pull(name)
