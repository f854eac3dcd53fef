"""docker/pins.toml is read whole or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.errors import UsageFault
from bench.host import pins


@pytest.fixture
def text() -> str:
    return pins.PINS_FILE.read_text(encoding="utf-8")


def line_with(text: str, start: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(start))


def fault_for(tmp_path: Path, text: str) -> UsageFault:
    path = tmp_path / "pins.toml"
    path.write_text(text)
    with pytest.raises(UsageFault) as caught:
        pins.load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_every_profile_of_the_projects_own_file_resolves() -> None:
    loaded = pins.load()
    assert {"cpu", "cuda-wheels", "cpu-source", "llvm10", "latest"} <= set(loaded.profiles)
    for name, profile in loaded.profiles.items():
        resolved = loaded.resolved(name)
        source = loaded.sources.get(profile.tvm)
        assert resolved["tvm"] == (profile.tvm if source else loaded.versions.tvm)
        assert resolved["tvm_source"] == ("source" if source else "wheel")
        assert resolved["base"] == profile.base
        assert resolved["torch_build"] == profile.torch
    assert loaded.profile(loaded.defaults.profile).device == "cpu"
    assert loaded.profile(loaded.defaults.gpu_profile).device == "cuda"


def test_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(UsageFault) as caught:
        pins.load().profile("gpu")
    assert "gpu" in caught.value.message
    assert "cpu" in str(caught.value.hint) and "cuda-wheels" in str(caught.value.hint)


def test_pins_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValidationError):
        pins.load().versions.tvm = "0.1"


def test_syntax_error_names_its_line(tmp_path: Path, text: str) -> None:
    line = line_with(text, "torch =")
    damaged = text.splitlines()
    damaged[line - 1] = "torch = "
    assert f"line {line}:" in fault_for(tmp_path, "\n".join(damaged)).message


@pytest.mark.parametrize(
    ("old", "new", "at", "word"),
    [
        ('device = "cuda"', 'device = "tpu"', 'device = "tpu"', "profiles.cuda-wheels.device"),
        ('tvm = "0', 'tvm = ">=0', "tvm =", "versions.tvm"),
        ("tvm_ffi =", "tvm_fii =", "tvm_fii =", "versions.tvm_fii"),
        ('suite = "bookworm"', "", "[base_image]", "base_image.suite"),
        ('gpu_profile = "cuda-wheels"', 'gpu_profile = "x"', "[defaults]", "'x'"),
        ("@sha256:", "@sha256:0", "base =", "profiles.cpu.base"),
    ],
)
def test_wrong_value_names_its_line(
    tmp_path: Path, text: str, old: str, new: str, at: str, word: str
) -> None:
    damaged = text.replace(old, new)
    assert damaged != text
    message = fault_for(tmp_path, damaged).message
    assert f"line {line_with(damaged, at)}:" in message
    assert word in message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", None])
def test_empty_binary_and_missing_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pins.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageFault, match=r"pins\.toml"):
        pins.load(path)
