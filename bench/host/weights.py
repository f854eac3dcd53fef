"""From what a user names to a checkpoint's directory: a path, a run, or a repository of a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import checkpoint
from bench.build.fetch.patience import Patience
from bench.catalog import Geometry
from bench.errors import UsageFault
from bench.host import console, hub, pins, runs
from bench.training import CHECKPOINT_DIR

_HINT = (
    "name a directory with config.json and model.safetensors, a run that `invoke results` lists, "
    "or hf:NAME (docs/weights.md)"
)


@dataclass(frozen=True)
class Resolved:
    """A checkpoint that was found, with all its files.

    ``sha256`` is ``bench.checkpoint.digest``; ``source`` says for people where it is from.
    """

    directory: Path
    sha256: str
    source: str
    geometry: Geometry


def resolve(
    named: str,
    results: Path,
    environ: Mapping[str, str],
    *,
    pinned: Mapping[str, pins.WeightsPin] | None = None,
    patience: Patience | None = None,
) -> Resolved:
    """The checkpoint called ``named``: a directory, a run under ``results``, or hf:REPO[@REV].

    A directory counts before a run of the same name. Of a directory of a run, its checkpoint is
    meant.

    Raises:
        UsageFault: there is none of that name, it is incomplete, not of a kind that can be
            loaded, or cannot be downloaded.
    """
    if named.startswith(hub.SCHEME):
        wanted = hub.named(named, pins.load().weights if pinned is None else pinned)
        with console.working(f"{hub.SCHEME}{wanted.repo}") as say:
            got = hub.fetch(wanted, cache(environ), environ, patience or Patience(), say)
        source = f"{hub.SCHEME}{got.repo}@{got.commit}"
        return Resolved(got.directory, got.digest, source, checkpoint.geometry(got.directory))
    directory, source = _local(named, results)
    geometry = checkpoint.geometry(directory)
    return Resolved(directory, checkpoint.digest(directory), source, geometry)


def cache(environ: Mapping[str, str]) -> Path:
    """Where downloaded weights are kept: the user's cache folder."""
    root = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "gpt-frontend" / "weights"


def _local(named: str, results: Path) -> tuple[Path, str]:
    path = Path(named)
    if path.is_dir() and named:
        inner = path / CHECKPOINT_DIR
        if (path / checkpoint.CONFIG).exists() or not inner.is_dir():
            return path.absolute(), named
        return inner.absolute(), named
    if path.is_file():
        raise UsageFault(
            f"{named} is a file, not a directory",
            hint=f"name the directory that holds it: {path.parent}",
        )
    # An absolute path can be no part of a run's name; saying so would only confuse.
    if not named or path.is_absolute() or not results.is_dir():
        raise UsageFault(f"no checkpoint {named!r}", hint=_HINT)
    try:
        # The newest is the newest that has one: generating from a run makes another run.
        run = runs.find(results, named, holding=CHECKPOINT_DIR if named == "last" else None)
    except UsageFault as fault:
        if fault.message.startswith("no run"):
            raise UsageFault(
                f"no checkpoint {named!r}: it is neither a directory nor a run under {results}/",
                hint=_HINT,
            ) from fault
        raise
    directory = run / CHECKPOINT_DIR
    if not directory.is_dir():
        raise UsageFault(
            f"the run {run.name} has no checkpoint", hint="`invoke train` makes runs that have one"
        )
    return directory.absolute(), f"run {run.name}"
