"""Checkpoints that are cut short, lie, or mean harm: refused in words, and never unpickled."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.checkpoint import CONFIG, INDEX, WEIGHTS
from bench.errors import UsageFault
from bench.job import weights
from tests.unit import checkpoints
from tests.unit.checkpoints import SMALL, Tensors

Edit = Callable[[Tensors], Tensors]
C_ATTN = "transformer.h.1.attn.c_attn.weight"
WTE = "transformer.wte.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint; the tests harm copies of it."""
    return checkpoints.saved(checkpoints.gpt2(*SMALL), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = checkpoints.gpt2(*SMALL)
    return checkpoints.saved(model, tmp_path_factory.mktemp("shards"), max_shard_size="10KB")


def copy_of(directory: Path, into: Path) -> Path:
    into.mkdir()
    for path in directory.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    return into


@pytest.fixture
def harmed(whole: Path, tmp_path: Path) -> Path:
    return copy_of(whole, tmp_path / "harmed")


@pytest.fixture
def harmed_shards(shards: Path, tmp_path: Path) -> Path:
    return copy_of(shards, tmp_path / "harmed")


def refused(directory: Path, *words: str) -> UsageFault:
    """The fault that loading ends in, which holds the words and tells what to do."""
    with pytest.raises(UsageFault) as caught:
        weights.load_gpt(directory)
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    return caught.value


def file_of(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, true or not."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def described(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def test_the_good_checkpoints_are_good(whole: Path, shards: Path) -> None:
    """What the tests below refuse, they refuse for what they changed."""
    weights.load_gpt(whole)
    weights.load_gpt(shards)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, -1])
def test_a_file_cut_short_is_refused(harmed: Path, size: int) -> None:
    path = harmed / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    refused(harmed, str(path), "is not a whole safetensors file")


def test_a_file_with_something_after_its_end_is_refused(harmed: Path) -> None:
    path = harmed / WEIGHTS
    path.write_bytes(path.read_bytes() + b"\0")
    refused(harmed, "is not a whole safetensors file")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(file_of(b"{}", length=2**63), id="a header longer than any file"),
        pytest.param(file_of(b"{}", length=200_000_000), id="a header longer than allowed"),
        pytest.param(file_of(b"{", length=1), id="half a header"),
        pytest.param(file_of(b"\xff\xfe\xfd"), id="a header that is not UTF-8"),
        pytest.param(file_of(b"[" * 100_000), id="a header nested without end"),
        pytest.param(file_of(described(a=F32, b=F32), bytes(8)), id="two tensors in one place"),
        pytest.param(
            file_of(described(a=F32, b=F32 | {"data_offsets": [4, 12]}), bytes(12)), id="overlap"
        ),
        pytest.param(
            file_of(described(a=F32, b=F32 | {"data_offsets": [16, 24]}), bytes(24)), id="a hole"
        ),
        pytest.param(
            file_of(described(a=F32 | {"data_offsets": [8, 0]})), id="ends before it begins"
        ),
        pytest.param(file_of(described(a=F32 | {"data_offsets": [0, 2**62]})), id="past the end"),
        pytest.param(
            file_of(described(a=F32 | {"shape": [3]}), bytes(8)), id="more than its bytes"
        ),
        pytest.param(
            file_of(described(a=F32 | {"shape": [2**62, 4]}), bytes(8)), id="a size that overflows"
        ),
        pytest.param(file_of(described(a=F32 | {"shape": [-2]}), bytes(8)), id="a negative shape"),
        pytest.param(file_of(described(a=F32 | {"dtype": "PY"}), bytes(8)), id="an unknown type"),
        pytest.param(file_of(b"[1, 2]"), id="a header that is a list"),
        pytest.param(b"GGUF" + bytes(60), id="another format"),
    ],
)
def test_a_lying_header_is_refused(harmed: Path, content: bytes) -> None:
    (harmed / WEIGHTS).write_bytes(content)
    refused(harmed, "is not a whole safetensors file")


def test_what_a_file_says_does_not_reach_the_terminal_as_it_is(harmed: Path) -> None:
    escape = "\x1b]0;harm\x07" * 1000
    checkpoints.edit_tensors(harmed, lambda tensors: tensors | {escape: torch.zeros(1)})
    messages = [refused(harmed, "does not ask for").message]
    lying = file_of(described(a=F32 | {"dtype": escape}), bytes(8))
    (harmed / WEIGHTS).write_bytes(lying)
    messages.append(refused(harmed, WEIGHTS).message)
    checkpoints.edit_config(harmed, model_type=escape)
    messages.append(refused(harmed, CONFIG).message)
    for message in messages:
        assert message.isprintable()
        assert len(message) < 1000


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


@pytest.mark.parametrize("way", ["pickle", "torch", "torch-old"])
@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin"])
def test_a_pickle_is_never_opened(harmed: Path, tmp_path: Path, name: str, way: str) -> None:
    proof = tmp_path / "proof"
    (harmed / WEIGHTS).unlink()
    path = harmed / name
    if way == "pickle":
        path.write_bytes(pickle.dumps({"transformer.wte.weight": Bomb(proof)}))
    else:
        zipped = way == "torch"
        torch.save({"a": Bomb(proof)}, path, _use_new_zipfile_serialization=zipped)
    assert "save_pretrained" in str(refused(harmed, name, "pickle").hint)
    assert not proof.exists()
    with path.open("rb") as file:  # it would have gone off
        if way == "pickle":
            pickle.load(file)
            assert proof.exists()


def test_random_bytes_are_refused(whole: Path, tmp_path: Path) -> None:
    directory = copy_of(whole, tmp_path / "harmed")
    good = (whole / WEIGHTS).read_bytes()
    header = 8 + struct.unpack("<Q", good[:8])[0]

    @given(st.integers(0, header - 1), st.binary(min_size=1, max_size=8))
    def harm(at: int, other: bytes) -> None:
        """A few bytes of the header: the model is refused or, where only a name's case or an
        unused word changed, whole; nothing else is ever raised."""
        (directory / WEIGHTS).write_bytes(good[:at] + other + good[at + len(other) :])
        try:
            weights.load_gpt(directory)
        except UsageFault as fault:
            assert fault.hint

    harm()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_embd": 18}, ["'transformer.wte.weight'", "(101, 15)", "(101, 18)"]),
        ({"vocab_size": 100}, ["'transformer.wte.weight'", "(101, 15)", "(100, 15)"]),
        ({"n_positions": 10}, ["'transformer.wpe.weight'", "(9, 15)", "(10, 15)"]),
        ({"n_layer": 3}, ["lacks", "'transformer.h.2.attn.c_attn.bias'", "and 9 more"]),
        ({"n_layer": 1}, ["does not ask for", "'h.1.attn.c_attn.bias'"]),
        ({"n_layer": 10**9}, ["n_layer is 1000000000"]),
        ({"n_layer": 4096}, ["lacks", "'transformer.h.10."]),
        ({"vocab_size": 2**24, "n_embd": 3 * 2**20}, ["(101, 15)", "(16777216, 3145728)"]),
    ],
)
def test_a_contradicting_config_is_refused(
    harmed: Path, changed: dict[str, int], words: list[str]
) -> None:
    checkpoints.edit_config(harmed, **changed)
    refused(harmed, *words)


def without(name: str) -> Edit:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    return lambda tensors: tensors | {name: change(tensors[name])}


def poisoned(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[1, 2] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (without(C_ATTN), ["lacks", f"'{C_ATTN}'"]),
        (without(WTE), ["lacks", f"'{WTE}'"]),
        (lambda t: t | {"transformer.extra": torch.zeros(1)}, ["does not ask for", "'extra'"]),
        (lambda t: t | {"wte.weight": t[WTE].clone()}, ["'wte.weight'", f"'{WTE}'", "same"]),
        # As nn.Linear has it, not as Conv1D does.
        (changed(C_ATTN, lambda x: x.T), [f"'{C_ATTN}'", "(45, 15)", "(15, 45)"]),
        (changed(C_ATTN, torch.flatten), [f"'{C_ATTN}'", "(675,)", "(15, 45)"]),
        (changed(C_ATTN, lambda x: x.double()), [f"'{C_ATTN}'", "F64"]),
        (changed(C_ATTN, lambda x: x.to(torch.int32)), [f"'{C_ATTN}'", "I32"]),
        (changed(C_ATTN, poisoned(float("nan"))), [f"'{C_ATTN}'", "not finite"]),
        (changed(WTE, poisoned(float("-inf"))), [f"'{WTE}'", "not finite"]),
        (lambda t: t | {"lm_head.weight": torch.zeros(100, 15)}, ["(100, 15)", "(101, 15)"]),
        (lambda t: {}, ["lacks", "and 25 more"]),
    ],
)
def test_wrong_tensors_are_named(harmed: Path, edit: Edit, words: list[str]) -> None:
    checkpoints.edit_tensors(harmed, edit)
    refused(harmed, *words)


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", 5, None, "\0"],
)
def test_an_index_leads_nowhere_else(harmed_shards: Path, name: Any) -> None:
    path = harmed_shards / INDEX
    raw = json.loads(path.read_text())
    raw["weight_map"][WTE] = name
    path.write_text(json.dumps(raw))
    (harmed_shards.parent / "outside.safetensors").write_bytes(b"secret")
    refused(harmed_shards, str(path), f"'{WTE}'", "no plain name")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "weight_map is missing"),
        ('{"weight_map": {}}', "weight_map is missing"),
        ('{"weight_map": ["a"]}', "weight_map is missing"),
    ],
)
def test_a_damaged_index_is_refused(harmed_shards: Path, content: str, words: str) -> None:
    (harmed_shards / INDEX).write_text(content)
    refused(harmed_shards, INDEX, words)


def test_a_missing_shard_is_named(harmed_shards: Path) -> None:
    shard = sorted(harmed_shards.glob("model-*.safetensors"))[1]
    shard.unlink()
    refused(harmed_shards, shard.name, "missing")


def test_a_shard_under_another_shards_name_is_refused(harmed_shards: Path) -> None:
    first, second = sorted(harmed_shards.glob("model-*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    refused(harmed_shards, "is both in", first.name, second.name)


def test_an_index_and_shards_that_disagree_are_refused(harmed_shards: Path) -> None:
    path = harmed_shards / INDEX
    raw = json.loads(path.read_text())
    names = sorted(set(raw["weight_map"].values()))
    raw["weight_map"][WTE] = next(name for name in names if name != raw["weight_map"][WTE])
    path.write_text(json.dumps(raw))
    refused(harmed_shards, f"'{WTE}'", "is not in", "where")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_link_out_of_the_directory_is_refused(harmed: Path, tmp_path: Path, name: str) -> None:
    (harmed / name).rename(tmp_path / "elsewhere")
    (harmed / name).symlink_to(tmp_path / "elsewhere")
    assert "cp -rL" in str(refused(harmed, name, "a link out of its directory").hint)


def test_a_directory_may_itself_be_a_link(harmed: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(harmed)
    (harmed / WEIGHTS).rename(harmed / "real")
    (harmed / WEIGHTS).symlink_to("real")
    weights.load_gpt(link)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_links_to_nothing_and_in_circles_are_refused(harmed: Path, name: str) -> None:
    path = harmed / name
    path.unlink()
    path.symlink_to("nothing")
    refused(harmed, str(path), "a link to what is not there")
    path.unlink()
    path.symlink_to(name)
    refused(harmed, str(path))


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_what_is_no_file_is_refused(harmed: Path, name: str) -> None:
    """A named pipe would make its reader wait for ever."""
    path = harmed / name
    path.unlink()
    os.mkfifo(path)
    refused(harmed, str(path), "is not a file")
    path.unlink()
    path.mkdir()
    refused(harmed, str(path), "is not a file")


def test_a_file_that_may_not_be_read_is_refused(
    harmed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)
    refused(harmed, CONFIG, "Permission denied")
