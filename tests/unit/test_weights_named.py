"""What a user may call weights: a directory, a run, or a repository of a hub, which may fail."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import checkpoint
from bench.build.fetch.patience import Patience
from bench.catalog import GPTConfig
from bench.errors import UsageFault
from bench.host import hub as hub_of_weights
from bench.host import pins, weights
from bench.host.pins import WeightsPin
from bench.host.weights import Resolved
from tests.conftest import ROOT
from tests.unit.hub_server import COMMIT, OTHER, Hub, served

GEOMETRY = GPTConfig(1, 2, 8, block_size=4, vocab_size=5)
CONFIG = json.dumps(checkpoint.config_of(GEOMETRY)).encode()
# The host compares checksums and never looks into tensors; 3 MB, so that a cut leaves something.
TENSORS = bytes(range(256)) * 12_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {
        "config.json": CONFIG,
        "model.safetensors": TENSORS,
        "merges.txt": b"#version: 0.2\na b\n",
        "vocab.json": b"{}",
        "pytorch_model.bin": b"a pickle",
        "README.md": b"words",
        "onnx/model.safetensors": b"another",
    }
    with served(Hub(files=files)) as running:
        yield running


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run that trained, and one that did not."""
    for name in ("20260101-000000-char-aaaa", "20260102-000000-gpt2-bbbb"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "record.json").write_text("{}")
    put(tmp_path / "results" / "20260101-000000-char-aaaa" / "checkpoint")
    return tmp_path / "results"


def put(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_bytes(CONFIG)
    (directory / "model.safetensors").write_bytes(TENSORS)
    return directory


def get(
    hub: Hub, tmp_path: Path, named: str = "hf:owner/tiny", sha256: str | None = None
) -> Resolved:
    """Resolve a name against the hub, with a cache of the test's own."""
    environ = {"HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    pin = {"tiny": WeightsPin(repo="owner/tiny", revision=COMMIT, sha256=sha256)} if sha256 else {}
    patience = Patience(attempts=2, pause_s=0.0)
    return weights.resolve(named, tmp_path / "results", environ, pinned=pin, patience=patience)


def refused(hub: Hub, tmp_path: Path, *words: str, named: str = "hf:owner/tiny") -> UsageFault:
    with pytest.raises(UsageFault) as caught:
        get(hub, tmp_path, named)
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert not list((tmp_path / "cache").rglob("*@*/origin.json"))
    return caught.value


def test_a_directory_and_its_digest(tmp_path: Path) -> None:
    directory = put(tmp_path / "mine")
    found = weights.resolve(str(directory), tmp_path / "none", {})
    assert found.directory == directory
    assert found.sha256 == checkpoint.digest(directory)
    assert found.geometry == GEOMETRY
    assert found.source == str(directory)


@pytest.mark.parametrize("run", ["20260101-000000-char-aaaa", "char", "aaaa"])
def test_a_run_means_its_checkpoint(results: Path, run: str) -> None:
    found = weights.resolve(run, results, {})
    assert found.directory == results / "20260101-000000-char-aaaa" / "checkpoint"
    assert found.source == "run 20260101-000000-char-aaaa"
    path = weights.resolve(str(results / "20260101-000000-char-aaaa"), results, {})
    assert path.directory == found.directory
    assert path.sha256 == found.sha256


def test_last_means_the_newest_run_that_has_one(results: Path) -> None:
    found = weights.resolve("last", results, {}).directory
    assert found == results / "20260101-000000-char-aaaa" / "checkpoint"
    shutil.rmtree(found)
    with pytest.raises(UsageFault, match="no checkpoint 'last'"):
        weights.resolve("last", results, {})


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("gpt2", "20260102-000000-gpt2-bbbb has no checkpoint"),
        ("nothing", "no checkpoint 'nothing': it is neither a directory nor a run"),
        ("2026", "'2026' fits 2 runs"),
        ("/no/such/place", "no checkpoint '/no/such/place'"),
        ("", "no checkpoint ''"),
    ],
)
def test_what_is_no_checkpoint_is_named(results: Path, named: str, words: str) -> None:
    with pytest.raises(UsageFault, match=re.escape(words)) as caught:
        weights.resolve(named, results, {})
    assert caught.value.hint


def test_an_incomplete_directory_is_refused_before_a_job_starts(tmp_path: Path) -> None:
    directory = put(tmp_path / "mine")
    with pytest.raises(UsageFault, match="is a file, not a directory"):
        weights.resolve(str(directory / "model.safetensors"), tmp_path, {})
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UsageFault, match="a pickle can run any code"):
        weights.resolve(str(directory), tmp_path, {})


def test_a_hub_gives_what_a_model_and_its_tokenizer_need(hub: Hub, tmp_path: Path) -> None:
    found = get(hub, tmp_path)
    assert found.source == f"hf:owner/tiny@{COMMIT}"
    assert found.geometry == GEOMETRY
    assert found.directory == tmp_path / f"cache/gpt-frontend/weights/owner/tiny@{COMMIT}"
    assert sorted(path.name for path in found.directory.iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "origin.json",
        "vocab.json",
    ]
    assert (found.directory / "model.safetensors").read_bytes() == TENSORS
    assert found.sha256 == checkpoint.digest(put(tmp_path / "by hand"))


def test_shards_come_with_their_index(hub: Hub, tmp_path: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    del hub.files["model.safetensors"]
    hub.files |= {first: b"one", second: b"two"}
    index = {"weight_map": {"a": first, "b": second}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    found = get(hub, tmp_path)
    assert [path.name for path in checkpoint.weight_files(found.directory)] == [first, second]


def test_nothing_else_is_asked_and_nothing_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No token is read, no other request made; no word or bar where there is no terminal."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(hub, tmp_path)
    assert sorted(hub.paths) == sorted(
        [
            "/api/models/owner/tiny/revision/main",
            *(f"/owner/tiny/resolve/{COMMIT}/{name}" for name in ("config.json", "vocab.json")),
            *(f"/owner/tiny/resolve/{COMMIT}/{name}" for name in ("merges.txt",)),
            f"/owner/tiny/resolve/{COMMIT}/model.safetensors",
            "/large/model.safetensors",
        ]
    )
    told = json.dumps(hub.headers)
    assert "authorization" not in told.lower() and "hf_secret" not in told
    assert "torch" not in told
    assert capfd.readouterr() == ("", "")


def test_a_commit_in_the_cache_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    first = get(hub, tmp_path)
    hub.asked.clear()
    assert get(hub, tmp_path, f"hf:owner/tiny@{COMMIT}") == first
    assert get(hub, tmp_path, "hf:tiny", sha256=hashlib.sha256(TENSORS).hexdigest()) == first
    assert not hub.asked


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json", "origin.json"])
def test_damage_in_the_cache_is_found_and_mended(hub: Hub, tmp_path: Path, name: str) -> None:
    first = get(hub, tmp_path)
    path = first.directory / name
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)
    assert get(hub, tmp_path, f"hf:owner/tiny@{COMMIT}") == first
    if name in hub.files:
        assert path.read_bytes() == hub.files[name]


def test_a_cut_download_goes_on_in_the_same_run(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [1_000_000]
    get(hub, tmp_path)
    starts = [start for path, start in hub.asked if path.startswith("/large/")]
    assert starts == [None, "bytes=1000000-"]


def test_a_cut_download_goes_on_in_the_next_run(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [900_000, 500_000]
    fault = refused(hub, tmp_path, "model.safetensors: given up after 2 attempts")
    assert "--weights PATH" in str(fault.hint)
    hub.asked.clear()
    found = get(hub, tmp_path)
    assert ("/large/model.safetensors", "bytes=1400000-") in hub.asked
    assert (found.directory / "model.safetensors").read_bytes() == TENSORS


def test_other_bytes_than_the_hub_states_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated["model.safetensors"] = "0" * 64
    refused(hub, tmp_path, "wrong checksum", hashlib.sha256(TENSORS).hexdigest(), "0" * 64)


def test_other_bytes_of_a_small_file_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated["config.json"] = "d" * 40
    refused(hub, tmp_path, "config.json: wrong checksum", "d" * 40)


def test_a_pin_counts_more_than_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"another checksum.*docker/pins\.toml.*" + "1" * 64):
        get(hub, tmp_path, "hf:tiny", sha256="1" * 64)
    assert "/large/model.safetensors" not in hub.paths


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_without_a_checksum_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.unstated.add(name)
    refused(hub, tmp_path, f"states no checksum for {name}")


def test_a_repository_with_pickles_alone_is_refused(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    refused(hub, tmp_path, "owner/tiny at main has no model.safetensors", "pickles")
    assert len(hub.asked) == 1


def test_another_kind_of_model_is_refused_before_its_weights(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = b'{"model_type": "llama"}'
    refused(hub, tmp_path, "model_type 'llama'")
    assert "/large/model.safetensors" not in hub.paths


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("hf:owner/none", "has no repository owner/none"),
        ("hf:none", "has no repository none"),
        ("hf:owner/tiny@v9", "owner/tiny on {url} has no revision v9"),
        (f"hf:owner/tiny@{OTHER}", "has no revision " + OTHER),
    ],
)
def test_unknown_names_are_told_apart(hub: Hub, tmp_path: Path, named: str, words: str) -> None:
    refused(hub, tmp_path, words.format(url=hub.url), named=named)


@pytest.mark.parametrize(
    "named",
    ["hf:", "hf:a--b", "hf:a/b/c", "hf:../up", "hf:a@", "hf:a b", "hf:-x", "hf:a@b@c", "hf:a/..\n"],
)
def test_what_is_no_name_is_refused(hub: Hub, tmp_path: Path, named: str) -> None:
    refused(hub, tmp_path, "is no name of weights on a hub", named=named)
    assert not hub.asked


def test_the_projects_own_pins_have_short_names() -> None:
    pinned = pins.load().weights
    assert {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "bert-base-uncased"} == set(pinned)
    gpt2 = hub_of_weights.named("hf:gpt2", pinned)
    assert gpt2.repo == "openai-community/gpt2"
    assert (gpt2.revision, gpt2.sha256) == (pinned["gpt2"].revision, pinned["gpt2"].sha256)
    assert hub_of_weights.named("hf:openai-community/gpt2", pinned) == gpt2
    assert hub_of_weights.named(f"hf:gpt2@{gpt2.revision}", pinned) == gpt2
    # The pinned sum is of the pinned commit alone.
    other = hub_of_weights.named("hf:gpt2@main", pinned)
    assert (other.repo, other.revision, other.sha256) == (gpt2.repo, "main", None)
    assert hub_of_weights.named("hf:me/gpt2", pinned).revision == "main"


def test_a_renamed_repository_is_followed(hub: Hub, tmp_path: Path) -> None:
    hub.renamed["tiny"] = "owner/tiny"
    found = get(hub, tmp_path, "hf:tiny")
    assert found.source == f"hf:tiny@{COMMIT}"
    assert (found.directory / "model.safetensors").read_bytes() == TENSORS


def test_gated_repositories_are_not_for_us(hub: Hub, tmp_path: Path) -> None:
    hub.codes["owner/tiny"] = "GatedRepo"
    refused(hub, tmp_path, "only for who has agreed to its terms")


def test_a_hub_that_fails_says_how(hub: Hub, tmp_path: Path) -> None:
    hub.statuses = [503]
    fault = refused(hub, tmp_path, f"the hub {hub.url} is not reachable: it answered 503")
    assert "--weights PATH" in str(fault.hint)


@pytest.mark.parametrize("answer", [b"<html>sign in here</html>", b"[1]", b"{}", b'{"id": 5}'])
def test_what_is_no_hub_is_recognised(hub: Hub, tmp_path: Path, answer: bytes) -> None:
    hub.answer = answer
    refused(hub, tmp_path, f"the hub {hub.url} is not reachable: ")


@pytest.mark.parametrize("sha", ["../../../up", "main", "A" * 40])
def test_a_commit_that_is_none_leads_nowhere(hub: Hub, tmp_path: Path, sha: str) -> None:
    hub.sha = sha
    refused(hub, tmp_path, "it states the commit", repr(sha))


def test_an_unreachable_hub_is_told_with_a_way_out(hub: Hub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    gone = Hub(port=1)  # nothing listens there
    with pytest.raises(UsageFault) as caught:
        get(gone, tmp_path)
    assert "the hub http://127.0.0.1:1 is not reachable" in caught.value.message
    # What is in the cache can be had by its commit.
    assert f"hf:owner/tiny@{COMMIT}" in str(caught.value.hint)
    assert get(gone, tmp_path, f"hf:owner/tiny@{COMMIT}").geometry == GEOMETRY
    with pytest.raises(UsageFault) as caught:
        get(gone, tmp_path, "hf:owner/other")
    assert "download owner/other at main" in str(caught.value.hint)
    assert "--weights PATH" in str(caught.value.hint)


def test_offline_is_respected(hub: Hub, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    environ["XDG_CACHE_HOME"] = str(tmp_path)
    with pytest.raises(UsageFault, match="HF_HUB_OFFLINE is set"):
        weights.resolve("hf:owner/tiny", tmp_path, environ)
    assert not hub.asked


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageFault, match="cannot keep weights in") as caught:
        get(hub, tmp_path)
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_no_room_is_said_before_the_download(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    refused(hub, tmp_path, "owner/tiny needs 3 MB more", "1 MB are free")
    assert len(hub.asked) == 1


def test_the_hubs_library_is_imported_only_where_it_is_needed() -> None:
    code = (
        "import sys, bench.host.weights\n"
        "assert not {'huggingface_hub', 'httpx2'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
