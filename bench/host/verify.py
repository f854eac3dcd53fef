"""Whether an image keeps its promises: asked inside a container of it, and written down.

The container is a job's in every respect (no network, a read-only root, the caller's identity,
removed whatever happens: bench/host/engine/docker.py); it runs bench.job.contract.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from bench.contract import (
    EXPECTED_FILE,
    FINDINGS_FILE,
    Check,
    ContractRecord,
    Expected,
    Findings,
)
from bench.errors import JobFailed, UsageFault
from bench.host import ask
from bench.host.engine.docker import DockerEngine
from bench.host.engine.endpoint import engine_errors
from bench.record import ImageRef

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

FOLDER = Path("results") / "contracts"
# A Debug build of TVM on two busy cores, six GPU architectures: some ten minutes.
TIMEOUT_S = 1800.0
GIB = 2**30
_TAIL = 15

Progress = Callable[[str], None]


class _ContractEngine(DockerEngine):
    """The engine of the jobs with the contract for a job; its files lie where a spec would."""

    _folder = PurePosixPath(DockerEngine.command[-1]).parent
    command = (
        *("python", "-m", "bench.job.contract"),
        *("--expected", str(_folder / EXPECTED_FILE), "--out", str(_folder / FINDINGS_FILE)),
    )


def verify(
    client: DockerClient,
    reference: str,
    expected: Expected,
    progress: Progress = lambda _: None,
    *,
    folder: Path = FOLDER,
    tag: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> ContractRecord:
    """Ask the image ``reference`` (a tag or an id) whether it is what ``expected`` says.

    Args:
        progress: given every line of output, as it comes.
        folder: the container's files lie below it meanwhile: like the results, it must be a
            place that the engine can mount.
        tag: what the record calls the image, where that is asked under a passing name.

    Returns:
        The record, whether its checks passed or not: see ``demand``.

    Raises:
        UsageFault: there is no such image, or the engine cannot start it.
        JobFailed: it ran and gave no findings; says how it ended.
    """
    with engine_errors():
        image = _find(client, reference)
        # The layers as they lie unpacked. The image's own "Size" is that of its compressed layers
        # in one of the engine's stores and not in the other.
        size = sum(int(layer["Size"]) for layer in image.history())
    findings = _ask(client, str(image.id), expected, progress, folder, timeout_s)
    build_stage = findings.facts.get("build", {}).get("build_stage_bytes")
    return ContractRecord(
        image=_reference(image, reference, tag),
        profile=expected.profile,
        created_at=datetime.now(timezone.utc),
        expected=expected,
        checks=(*findings.checks, *_within_budget(size, expected.budget_bytes)),
        facts=findings.facts,
        size_bytes=size,
        build_stage_bytes=build_stage if isinstance(build_stage, int) else None,
        seconds=findings.seconds,
    )


def demand(record: ContractRecord) -> None:
    """Accept nothing but a record in which every check passed.

    Raises:
        JobFailed: lists the checks that did not, each with what mends it.
    """
    if record.passed:
        return
    lines = [f"\n  {c.name}: {c.seen} (wanted: {c.wanted})\n    {c.hint}" for c in record.failed]
    count = f"{len(record.failed)} of {len(record.checks)} checks failed"
    raise JobFailed(
        f"{record.image.tag} breaks its contract: {count}{''.join(lines)}",
        hint="docs/contract.md says of every check why it is made and what to do",
    )


def table(record: ContractRecord) -> Table:
    """The checks for the terminal, the failed ones with their remedies."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=None)
    for name in ("", "check", "seen"):
        shown.add_column(name, no_wrap=name != "seen", overflow="fold")
    for one in record.checks:
        mark = "[green]ok[/green]" if one.ok else "[red]FAILED[/red]"
        shown.add_row(mark, escape(one.name), escape(one.seen))
        if not one.ok:
            shown.add_row("", "  wanted", escape(one.wanted))
            shown.add_row("", "  remedy", escape(one.hint or "-"))
    return shown


def summary(record: ContractRecord) -> str:
    """One line: how many checks passed, the size of the image and of the stage that built it."""
    passed = len(record.checks) - len(record.failed)
    said = f"{record.image.tag}: {passed} of {len(record.checks)} checks passed"
    said += f", {record.size_bytes / GIB:.2f} GiB"
    if record.build_stage_bytes is not None:
        said += f" (the stage that built it: {record.build_stage_bytes / GIB:.2f} GiB)"
    return f"{said}, {record.seconds:.0f} s"


def path_of(record: ContractRecord, folder: Path = FOLDER) -> Path:
    """Where the record of this image belongs: by its tag, or its id where it has none."""
    return folder / f"{stem(record.image.tag)}.json"


def stem(tag: str) -> str:
    """What the files about an image are called, by its tag or its id, without their suffixes."""
    name = tag.rpartition("/")[2].partition(":")[2] or tag
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def write(record: ContractRecord, folder: Path = FOLDER) -> Path:
    """Keep the record, in place of an earlier one of the same image, in one step.

    Raises:
        UsageFault: it cannot be written there.
    """
    path = path_of(record, folder)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may never have come to be
            partial.unlink()
        raise ask.unwritable(path, error) from error
    return path


def _find(client: DockerClient, reference: str) -> Image:
    from docker.errors import ImageNotFound

    try:
        return client.images.get(reference)
    except ImageNotFound as error:
        raise UsageFault(
            f"the engine has no image {reference}",
            hint="docker images; invoke build-image makes one",
        ) from error


def _ask(
    client: DockerClient,
    image: str,
    expected: Expected,
    progress: Progress,
    folder: Path,
    timeout_s: float,
) -> Findings:
    answer = ask.ask(
        _ContractEngine(client, image),
        "contract",
        {EXPECTED_FILE: expected.model_dump_json().encode()},
        FINDINGS_FILE,
        folder=folder,
        largest=2**24,
        timeout_s=timeout_s,
        kept_lines=_TAIL,
        progress=progress,
    )
    try:
        return Findings.model_validate_json(answer.content or b"")
    except ValidationError as error:
        raise _no_findings(answer) from error


def _no_findings(answer: ask.Answer) -> JobFailed:
    shown = "".join(f"\n  | {line}" for line in answer.tail if not line.startswith("progress "))
    hint = "docs/contract.md, 'no findings'"
    if any("No module named bench" in line for line in answer.tail):
        hint = "the image is older than its contract: invoke build-image"
    return JobFailed(f"the image gave no findings: {answer.reason}{shown}", hint=hint)


def _within_budget(size: int, budget: int | None) -> list[Check]:
    if budget is None:
        return []
    ok = size <= budget
    hint = "what grew? docker history IMAGE; or raise budget_gib of the profile in docker/pins.toml"
    return [
        Check(
            name="image size",
            ok=ok,
            wanted=f"at most {budget / GIB:.2f} GiB",
            seen=f"{size / GIB:.2f} GiB",
            hint=None if ok else hint,
        )
    ]


def _reference(image: Image, reference: str, tag: str | None) -> ImageRef:
    digests: list[str] = image.attrs.get("RepoDigests") or []
    tags: list[str] = image.tags
    found = reference if reference in tags else (tags or [str(image.id)])[0]
    digest = digests[0].partition("@")[2] if digests else None
    return ImageRef(id=str(image.id), digest=digest, tag=tag or found, labels=dict(image.labels))
