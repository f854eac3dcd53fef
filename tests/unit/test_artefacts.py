"""The artefact store, from both sides: the job writes and finds, the host bounds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageFault
from bench.host.store import Store
from bench.job import artefacts

PARAMS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, dtype=np.float32)]
PARTS = {"tvm": "0.27+x", "pipeline": "none", "shape": [1, 64]}


def export(path: Path) -> None:
    path.write_bytes(b"code" * 100)


def put(root: Path, name: str, params: list[np.ndarray] = PARAMS) -> str:
    parts = {**PARTS, "model": name}
    key = artefacts.key_of(parts)
    artefacts.put(root, key, parts, export, params, 1.5)
    return key


def test_what_was_put_is_found_with_its_parameters_in_order(tmp_path: Path) -> None:
    many = [np.full(3, i, dtype=np.float32) for i in range(150)]
    key = put(tmp_path, "a", many)
    found = artefacts.get(tmp_path, key)
    assert found is not None and found.cached and found.compile_s == 1.5
    assert found.library.read_bytes() == b"code" * 100
    for got, want in zip(found.params, many, strict=True):
        np.testing.assert_array_equal(got, want)


@given(st.sampled_from(sorted(PARTS)), st.text())
def test_every_part_is_part_of_the_key(part: str, value: str) -> None:
    assert artefacts.key_of(PARTS) == artefacts.key_of(dict(reversed(PARTS.items())))
    assert artefacts.key_of({**PARTS, part: [value]}) != artefacts.key_of(PARTS)


def test_equal_parameters_are_kept_once(tmp_path: Path) -> None:
    put(tmp_path, "a")
    put(tmp_path, "b")
    put(tmp_path, "c", [PARAMS[0] + 1, PARAMS[1]])
    assert len(list((tmp_path / "params").iterdir())) == 2
    assert len(list((tmp_path / "lib").iterdir())) == 3


@pytest.mark.parametrize("harm", ["library", "meta", "params", "cut params", "cut library"])
def test_a_damaged_entry_is_none_and_is_made_again(tmp_path: Path, harm: str) -> None:
    key = put(tmp_path, "a")
    entry = tmp_path / "lib" / key
    (params,) = (tmp_path / "params").iterdir()
    if harm == "library":
        (entry / "lib.so").unlink()
    elif harm == "cut library":
        os.truncate(entry / "lib.so", 10)
    elif harm == "meta":
        (entry / "meta.json").write_text("{")
    elif harm == "params":
        params.unlink()
    else:
        os.truncate(params, 12)
    assert artefacts.get(tmp_path, key) is None
    put(tmp_path, "a")
    assert artefacts.get(tmp_path, key) is not None


def test_a_failed_export_leaves_no_entry(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        artefacts.put(tmp_path, "k" * 64, PARTS, broken, PARAMS, 1.0)
    assert list((tmp_path / "lib").iterdir()) == []


def test_trim_removes_what_was_used_least_lately(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=10**9)
    keys = [put(tmp_path, name, [np.full(1000, i, np.float32)]) for i, name in enumerate("abc")]
    for age, key in enumerate(keys):
        old = time.time() - 1000 + age
        os.utime(tmp_path / "lib" / key, (old, old))
    for path in (tmp_path / "params").iterdir():
        os.utime(path, (1, 1))
    assert artefacts.get(tmp_path, keys[0]) is not None  # using it makes it the newest
    one = store.size_bytes() // 3
    removed = Store(tmp_path, limit_bytes=2 * one + 100).trim()
    assert [path.name for path in removed] == [keys[1]]
    assert artefacts.get(tmp_path, keys[1]) is None
    assert artefacts.get(tmp_path, keys[0]) and artefacts.get(tmp_path, keys[2])
    assert len(list((tmp_path / "params").iterdir())) == 2


def test_parameters_that_another_library_uses_survive(tmp_path: Path) -> None:
    first, second = put(tmp_path, "a"), put(tmp_path, "b")
    os.utime(tmp_path / "lib" / first, (1, 1))
    for path in (tmp_path / "params").iterdir():
        os.utime(path, (1, 1))
    store = Store(tmp_path, limit_bytes=Store(tmp_path, 0).size_bytes() - 1)
    assert [path.name for path in store.trim()] == [first]
    assert artefacts.get(tmp_path, second) is not None


def test_clear_frees_everything_it_counted(tmp_path: Path) -> None:
    put(tmp_path, "a")
    store = Store(tmp_path, limit_bytes=0)
    for path in (tmp_path / "params").iterdir():
        os.utime(path, (1, 1))
    counted = store.size_bytes()
    assert store.clear() == counted > 0
    assert store.size_bytes() == 0
    assert list((tmp_path / "params").iterdir()) == []


def test_both_sides_agree_where_the_store_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GPT_FRONTEND_STORE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.of(os.environ).root == artefacts.store_root()


def test_a_limit_that_is_no_number_is_named(tmp_path: Path) -> None:
    environ = {"GPT_FRONTEND_STORE": str(tmp_path), "GPT_FRONTEND_STORE_GIB": "lots"}
    with pytest.raises(UsageFault, match="GPT_FRONTEND_STORE_GIB=lots"):
        Store.of(environ)
