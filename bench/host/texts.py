"""Texts to train on and to look at: a file, a URL, or a name in docker/pins.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.build.fetch import download
from bench.build.fetch.fault import masked
from bench.errors import UsageFault
from bench.host import assets, console, pins
from bench.training import STATE_FILE, TrainSpec, read_state


@dataclass(frozen=True)
class Text:
    """A text on this machine: its name for people, its sum, and where it lies."""

    name: str
    sha256: str
    path: Path


def named(name: str | None, environ: Mapping[str, str]) -> Text:
    """The text called ``name``: a file, a URL, or a name in docker/pins.toml (None: its first).

    Raises:
        UsageFault: it cannot be had, or is not what its checksum says.
    """
    pinned = pins.load().texts
    if name is None:
        name = next(iter(pinned))
        return _pinned(name, pinned[name], environ)
    if assets.is_url(name):
        url, sha256 = assets.parted(name)
        with console.working("text") as say:
            path = assets.fetch(url, sha256, assets.cache_of(environ), environ, say)
        return Text(masked(url), path.name, path)
    if name in pinned and not Path(name).exists():
        return _pinned(name, pinned[name], environ)
    return _file(Path(name))


def of_checkpoint(name: str | None, directory: Path, environ: Mapping[str, str]) -> Text:
    """The text called ``name``; None takes the one that the checkpoint was trained on.

    Raises:
        UsageFault: as ``named``; or none is named and the checkpoint does not say.
    """
    if name is not None:
        return named(name, environ)
    if not (directory / STATE_FILE).is_file():
        raise UsageFault(
            f"{directory} does not say what it was trained on", hint="name a text: --text FILE"
        )
    return of_run(read_state(directory).spec, environ)


def _pinned(name: str, pin: pins.TextPin, environ: Mapping[str, str]) -> Text:
    with console.working(name) as say:
        path = assets.fetch(pin.url, pin.sha256, assets.cache_of(environ), environ, say)
    return Text(name, pin.sha256, path)


def _file(path: Path) -> Text:
    hint = "a file of UTF-8 text: --text FILE, or a URL"
    try:
        if path.is_dir():
            raise UsageFault(f"the text {path} is a directory", hint=hint)
        if not path.is_file():
            raise UsageFault(f"there is no text {path}", hint=hint)
        if path.stat().st_size == 0:
            raise UsageFault(f"the text {path} is empty", hint=hint)
        return Text(path.name, download.sum_of(path), path.absolute())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageFault(f"cannot read the text {path}: {why}", hint=hint) from error


def of_run(earlier: TrainSpec, environ: Mapping[str, str]) -> Text:
    """The text that a run was trained on, by its sum: from the cache, or by its pin.

    Raises:
        UsageFault: it is not on this machine and no pin tells where to get it.
    """
    path = assets.kept(earlier.text_sha256, assets.cache_of(environ))
    if path is not None:
        return Text(earlier.text, earlier.text_sha256, path)
    for name, pin in pins.load().texts.items():
        if pin.sha256 == earlier.text_sha256:
            return _pinned(name, pin, environ)
    raise UsageFault(
        f"the run was trained on {earlier.text} (sha256 {earlier.text_sha256}), which is not in "
        "the cache",
        hint="name that text again: --text FILE",
    )
