"""The cpu image built twice without cache: the same digest, on a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.host import image, pins
from bench.host.engine.endpoint import Endpoint
from bench.host.reproduce import listing, rebuild

if TYPE_CHECKING:
    from docker import DockerClient


def test_cpu_image_comes_out_the_same(
    built_image: image.Image, endpoint: Endpoint, client: DockerClient, tmp_path: Path
) -> None:
    request = image.BuildRequest(profile="cpu")
    outcome = rebuild.rebuild(built_image, request, pins.load(), endpoint, client, folder=tmp_path)
    told = [f"{one.layer} {one.path}: {one.kind}" for one in outcome.record.differences]
    assert outcome.record.same, told[:20]
    assert outcome.record.first == outcome.record.second == built_image.id
    assert not client.images.list(name=f"{built_image.tag}{image.REBUILT}")
    assert rebuild.RebuildRecord.model_validate_json(outcome.path.read_text()) == outcome.record


def test_list_of_its_files_is_that_of_the_image(
    built_image: image.Image, client: DockerClient, tmp_path: Path
) -> None:
    made = listing.read(client.api.get_image(built_image.id), built_image.tag)
    assert made.header.image == client.images.get(built_image.id).id
    assert [one.diff_id for one in made.layers] == (
        client.images.get(built_image.id).attrs["RootFS"]["Layers"]
    )
    files = {one.path: (layer.step, one) for layer, entries in zip(
        made.layers, made.entries, strict=True) for one in entries}  # fmt: skip
    said = client.containers.run(
        built_image.id, ["sha256sum", "/opt/gpt-frontend/bench/errors.py"], remove=True
    )
    step, entry = files["opt/gpt-frontend/bench/errors.py"]
    assert (step, entry.sha256) == ("the project's code", said.decode().split()[0])
    date = pins.load().defaults.source_date_epoch
    ours = [one for layer in made.entries[1:] for one in layer]
    assert {one.mtime for one in ours if one.path.startswith("opt/")} == {date}
    listing.write(made, tmp_path / "files")
    assert listing.load(tmp_path / "files") == made
    assert rebuild.against(built_image, tmp_path / "files", client, folder=tmp_path).record.same
