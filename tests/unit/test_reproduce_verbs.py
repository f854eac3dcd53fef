"""Images compared: what is refused, what is said, and what is kept."""

from __future__ import annotations

import json
import tarfile
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from invoke import Context, Exit

from bench.errors import JobFailed, UsageFault
from bench.host import image, layout, pins
from bench.host.reproduce import listing, rebuild, verbs
from bench.host.reproduce.differences import Difference
from bench.tasks.images import verify_image
from tests.unit.archives import chunks, unpacked
from tests.unit.test_image import ENDPOINT, client_with
from tests.unit.test_reproduce import image as saved
from tests.unit.test_reproduce import layer

LABELLED = {"Labels": {image.CONTENT_LABEL: "x"}}
FOUND = image.Image("sha256:" + "1" * 64, None, "gpt-frontend:cpu-0", LABELLED["Labels"], False)


def engine(archive: bytes) -> Any:
    """An engine that saves one image."""
    return SimpleNamespace(
        api=SimpleNamespace(get_image=lambda _: chunks(archive)), version=lambda: {"Version": "1"}
    )


def listed(archive: bytes, path: Path) -> Path:
    listing.write(listing.read(chunks(archive), FOUND.tag), path)
    return path


def test_an_image_that_this_checkout_does_not_make_is_refused() -> None:
    found = image.Image("sha256:1", None, "gpt-frontend:cpu-0", {image.CONTENT_LABEL: "x"}, False)
    request = image.BuildRequest("cpu", "b")
    with pytest.raises(UsageFault, match="this checkout does not make gpt-frontend:cpu-0"):
        rebuild.rebuild(found, request, pins.load(), ENDPOINT, client_with("b"), environ={})


def test_a_second_build_takes_nothing_of_the_first() -> None:
    request = image.BuildRequest("cpu", "b", again=True)
    plan = image.plan(request, pins.load(), client_with("b"), environ={})
    first = image.plan(image.BuildRequest("cpu", "b"), pins.load(), client_with("b"), environ={})
    assert plan.content_id == first.content_id, "how it is built is no part of what it is"
    assert "--no-cache" in plan.argv and "--no-cache" not in first.argv
    assert plan.candidate == f"{first.tag}-rebuilt" and plan.candidate in plan.argv
    assert image._more_secrets(request, {})["fresh"]
    assert "fresh" not in image._more_secrets(image.BuildRequest("cpu", "b"), {})


def test_a_list_of_the_same_image_agrees_and_is_recorded(tmp_path: Path) -> None:
    archive = saved(layer(("a", {"content": b"1"})), config=LABELLED)
    path = listed(archive, tmp_path / "files")
    outcome = rebuild.against(FOUND, path, engine(archive), folder=tmp_path)
    assert outcome.record.same and outcome.record.with_list == "files"
    assert outcome.path == tmp_path / "cpu-0.rebuild.json"
    assert rebuild.RebuildRecord.model_validate_json(outcome.path.read_text()) == outcome.record


def test_a_list_of_another_image_tells_the_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archives = [saved(layer(("a", {"content": one})), config=LABELLED) for one in (b"1", b"2")]
    path = listed(archives[1], tmp_path / "files")
    outcome = rebuild.against(FOUND, path, engine(archives[0]), folder=tmp_path)
    (first, *_) = outcome.record.differences
    assert (first.layer, first.path, first.kind) == (2, "a", "content")
    with pytest.raises(JobFailed, match="difference") as caught:
        verbs._tell(outcome, as_json=False, what="files has")
    assert "docs/reproducible.md" in str(caught.value.hint)
    said = capsys.readouterr().out
    assert "layer 2: Python packages\n  /a: content\n    1 bytes, then 1\n" in said


def test_a_list_of_something_else_is_refused(tmp_path: Path) -> None:
    archive = saved(layer(("a", {})), config={"Labels": {image.CONTENT_LABEL: "y"}})
    path = listed(archive, tmp_path / "files")
    with pytest.raises(UsageFault, match="made of something else"):
        rebuild.against(FOUND, path, engine(archive), folder=tmp_path)


def test_what_is_shown_has_an_end_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    many = tuple(
        Difference(
            layer=1,
            step="s",
            path=f"f{n}\x1b[31m",
            kind="mode",
            detail="d",
            suspect="s",
            remedy="r",
        )
        for n in range(verbs.SHOWN + 5)
    )
    record = rebuild.RebuildRecord(
        tag="t",
        first="1",
        second="2",
        same=False,
        differences=many,
        engine="1",
        created_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
        seconds=1.0,
    )
    with pytest.raises(JobFailed):
        verbs._tell(rebuild.Outcome(record, Path("r")), as_json=False, what="it has")
    said = capsys.readouterr().out
    assert "and 5 more" in said and "\x1b[31m" not in said
    with pytest.raises(JobFailed):
        verbs._tell(rebuild.Outcome(record, Path("r")), as_json=True, what="it has")
    assert len(json.loads(capsys.readouterr().out)["differences"]) == len(many)


def test_two_questions_at_once_are_refused() -> None:
    with pytest.raises(Exit, match="--rebuild and --files are two questions") as caught:
        verify_image(Context(), rebuild=True, files="x")
    assert caught.value.code == 2


def test_a_base_that_is_written_twice_is_one_image(tmp_path: Path) -> None:
    tree = tmp_path / "layer.tar"
    with tarfile.open(tree, "w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    made = []
    for name in ("one.tar", "two.tar"):
        layout.write(tmp_path / name, tree, "a/b:c", 10**9, {"key": "value"}, "why")
        made.append((tmp_path / name).read_bytes())
    files = unpacked(made[0])
    assert files == unpacked(made[1])
    digest, manifest = layout.platform(files)
    config = json.loads(files[layout.blob(manifest["config"]["digest"])])
    assert config["created"] == "2001-09-09T01:46:40Z"
    assert config["config"]["Labels"] == {"key": "value"}
    known = layout.digests(files, dict.fromkeys(files, ""))
    assert known == {digest, manifest["config"]["digest"]}
    assert layout.names(files) == {"a/b:c"}
