"""An image asked something by a program in a container of it, confined as a job is."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageFault
from bench.host import untrusted
from bench.host.engine.base import Launch
from bench.host.engine.docker import DockerEngine

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What came back: ``content`` is None where nothing that can be read did.

    ``reason`` is how the container ended, ``tail`` the last lines that it printed.
    """

    content: bytes | None
    reason: str
    tail: tuple[str, ...]


def ask(
    engine: DockerEngine,
    name: str,
    lent: Mapping[str, bytes],
    wanted: str,
    *,
    folder: Path,
    largest: int,
    timeout_s: float,
    kept_lines: int,
    progress: Progress,
) -> Answer:
    """Run an engine's command beside the files ``lent``, and read the file ``wanted``.

    Args:
        name: what the container is for: a part of its name.
        folder: the files lie below it meanwhile: it must be a place that the engine can mount.
        largest: bytes of the answer beyond which it is refused.

    Raises:
        UsageFault: ``folder`` cannot be written, or the engine cannot start the image.
    """
    tail: list[str] = []

    def on_line(line: str) -> None:
        tail.append(line)
        del tail[:-kept_lines]
        progress(line)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".asked-", dir=folder.resolve())
    except OSError as error:
        raise unwritable(folder, error) from error
    with scratch as where:
        shared, store = Path(where, "run"), Path(where, "store")
        shared.mkdir()
        store.mkdir()
        for file, content in lent.items():
            (shared / file).write_bytes(content)
            os.chmod(shared / file, 0o644)
        launch = Launch(
            run_id=f"{name}-{secrets.token_hex(6)}",
            run_dir=shared,
            store=store,  # one of its own: nothing compiled earlier may stand in
            timeout_s=timeout_s,
        )
        ending = engine.run(launch, on_line)
        answer = None
        with contextlib.suppress(OSError):
            answer = untrusted.read(shared / wanted, largest)
        return Answer(answer, ending.reason(), tuple(tail))


def unwritable(path: Path, error: OSError) -> UsageFault:
    """The error for a folder or a file that cannot be written."""
    return UsageFault(
        f"cannot write {path}: {error.strerror or error}", hint="make the folder writable for you"
    )
