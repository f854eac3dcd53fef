"""The artefact store, from both sides: the job writes and finds, the host bounds."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageFault
from bench.host import store as host_store
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


@pytest.fixture
def linking_takes_2_s(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr("bench.job.artefacts.time.perf_counter", clock.__next__)


@pytest.mark.usefixtures("linking_takes_2_s")
def test_what_was_put_is_found_with_its_parameters_in_order(tmp_path: Path) -> None:
    many = [np.full(3, i, dtype=np.float32) for i in range(150)]
    key = put(tmp_path, "a", many)
    found = artefacts.get(tmp_path, key)
    assert found is not None and found.cached and found.compile_s == 1.5 + 2
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


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "harm",
    [
        "library", "cut library", "flipped library",
        "params", "cut params", "flipped params", "other params",
        "meta", "meta list", "time", "file",
    ],
)  # fmt: skip
def test_a_damaged_entry_is_none_and_is_made_again(tmp_path: Path, harm: str) -> None:
    key = put(tmp_path, "a")
    entry = tmp_path / "lib" / key
    (params,) = (tmp_path / "params").iterdir()
    if harm == "library":
        (entry / "lib.so").unlink()
    elif harm == "flipped library":
        flip_last_byte(entry / "lib.so")
    elif harm == "flipped params":
        flip_last_byte(params)
    elif harm == "other params":  # whole, of the same size, and another's
        put(tmp_path, "b", [PARAMS[0] + 1, PARAMS[1]])
        (other,) = set((tmp_path / "params").iterdir()) - {params}
        other.replace(params)
    elif harm == "meta list":
        (entry / "meta.json").write_text("[]")
    elif harm == "time":
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(json.dumps({**meta, "compile_s": float("nan")}))
    elif harm == "file":
        shutil.rmtree(entry)
        entry.write_text("not a directory")
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
    found = artefacts.get(tmp_path, key)
    assert found is not None and found.library.read_bytes() == b"code" * 100
    for got, want in zip(found.params, PARAMS, strict=True):
        np.testing.assert_array_equal(got, want)
    assert list(tmp_path.glob("*/*.partial")) == []


@pytest.mark.usefixtures("linking_takes_2_s")
def test_a_whole_entry_is_kept_and_ours_dropped(tmp_path: Path) -> None:
    """Another job published first, and may be about to load it."""
    key = put(tmp_path, "a")
    entry = tmp_path / "lib" / key
    before = (entry / "lib.so").stat().st_ino

    def export_other(path: Path) -> None:
        path.write_bytes(b"other code")

    kept = artefacts.put(tmp_path, key, PARTS, export_other, PARAMS, 2.5)
    assert (entry / "lib.so").stat().st_ino == before
    assert kept.library.read_bytes() == b"code" * 100
    assert (kept.cached, kept.compile_s) == (False, 2.5 + 2)
    assert list((tmp_path / "lib").iterdir()) == [entry]


def test_of_two_that_mend_one_entry_the_second_keeps_the_firsts(tmp_path: Path) -> None:
    """Both have found it damaged; the slower must not remove what the faster put there."""
    key = put(tmp_path, "a")
    library = tmp_path / "lib" / key / "lib.so"
    flip_last_byte(library)
    firsts: list[int] = []

    def export_late(path: Path) -> None:
        export(path)
        put(tmp_path, "a")
        firsts.append(library.stat().st_ino)

    artefacts.put(tmp_path, key, {**PARTS, "model": "a"}, export_late, PARAMS, 1.0)
    assert firsts == [library.stat().st_ino]
    assert artefacts.get(tmp_path, key) is not None


def test_of_two_that_publish_one_waits_for_the_other(tmp_path: Path) -> None:
    """Between looking at an entry and replacing it no other job may replace it."""
    (tmp_path / "lib").mkdir()
    done = threading.Event()
    handle = os.open(tmp_path / "lib", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)

    def job() -> None:
        put(tmp_path, "a")
        done.set()

    thread = threading.Thread(target=job)
    thread.start()
    assert not done.wait(0.5) and artefacts.get(tmp_path, key_of_a()) is None
    os.close(handle)
    thread.join()
    assert done.is_set() and artefacts.get(tmp_path, key_of_a()) is not None


def key_of_a() -> str:
    return artefacts.key_of({**PARTS, "model": "a"})


def test_parameters_without_dimensions_keep_their_shape(tmp_path: Path) -> None:
    key = put(tmp_path, "a", [np.array(3.0, dtype=np.float32)])
    found = artefacts.get(tmp_path, key)
    assert found is not None and found.params[0].shape == ()


def test_a_failed_export_leaves_no_entry(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        artefacts.put(tmp_path, "k" * 64, PARTS, broken, PARAMS, 1.0)
    assert list((tmp_path / "lib").iterdir()) == []


def test_a_disk_without_room_for_parameters_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that writes them has an error of its own for it."""

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path, "a")
    assert list((tmp_path / "params").iterdir()) == []


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


def test_clear_leaves_nothing_and_tells_what_it_freed(tmp_path: Path) -> None:
    """Fresh parameters, what runs have not finished, what lost its meta: all of it."""
    key = put(tmp_path, "a")
    put(tmp_path, "b", [PARAMS[0] + 1])
    (tmp_path / "lib" / key / "meta.json").unlink()
    (tmp_path / "lib" / "k.partial").mkdir()
    (tmp_path / "lib" / "k.partial" / "lib.so").write_bytes(b"x" * 1000)
    (tmp_path / "params" / "p.partial").write_bytes(b"x" * 2000)
    store = Store(tmp_path, limit_bytes=0)
    there = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert store.size_bytes() == there > 3000
    assert store.clear() == there
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "lib").iterdir()) == list((tmp_path / "params").iterdir()) == []
    assert store.clear() == 0


def test_clear_counts_only_what_it_could_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a")
    monkeypatch.setattr(host_store, "_remove", lambda path: None)
    assert Store(tmp_path, 0).clear() == 0


@pytest.mark.parametrize(("age_s", "kept"), [(590, True), (610, False)])
def test_parameters_wait_ten_minutes_for_their_library(
    tmp_path: Path, age_s: float, kept: bool
) -> None:
    key = put(tmp_path, "a")
    shutil.rmtree(tmp_path / "lib" / key)
    (params,) = (tmp_path / "params").iterdir()
    then = time.time() - age_s
    os.utime(params, (then, then))
    Store(tmp_path, 10**9).trim()
    assert params.exists() is kept


def test_putting_parameters_that_are_there_makes_them_new(tmp_path: Path) -> None:
    put(tmp_path, "a")
    (params,) = (tmp_path / "params").iterdir()
    os.utime(params, (1, 1))
    put(tmp_path, "b")
    assert params.stat().st_mtime > 1


def test_an_abandoned_partial_goes_and_a_fresh_one_stays(tmp_path: Path) -> None:
    put(tmp_path, "a")
    old, new = tmp_path / "lib" / "old.partial", tmp_path / "params" / "new.partial"
    old.mkdir()
    new.write_bytes(b"x")
    os.utime(old, (1, 1))
    Store(tmp_path, 10**9).trim()
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("step", ["_bytes", "_used"])
def test_trim_and_clear_bear_that_another_clears_under_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever is looked at is removed just before the look."""
    store = Store(tmp_path, limit_bytes=0)
    real = getattr(host_store, step)

    def vanishing(path: Path) -> object:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return real(path)

    for verb in (store.trim, store.clear, store.size_bytes):
        monkeypatch.setattr(host_store, step, real)
        for name in "abc":
            put(tmp_path, name, [np.full(3, ord(name), np.float32)])
        (tmp_path / "lib" / "k.partial").mkdir(exist_ok=True)
        monkeypatch.setattr(host_store, step, vanishing)
        verb()
    shutil.rmtree(tmp_path / "lib")
    assert store.trim() == [] and store.size_bytes() >= 0


@pytest.mark.parametrize("verb", ["trim", "clear"])
def test_jobs_and_hosts_at_work_in_one_store(tmp_path: Path, verb: str) -> None:
    """No host ever fails; no job does, unless the user clears the store under it."""
    failures: dict[str, list[BaseException]] = {"job": [], "host": []}
    stop = threading.Event()

    def repeat(who: str, step: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                step()
            except Exception as failure:
                failures[who].append(failure)

    def job() -> None:
        found = artefacts.get(tmp_path, put(tmp_path, "a"))
        assert found is None or found.params[0].shape == (2, 3)

    host = getattr(Store(tmp_path, limit_bytes=0), verb)
    steps = [("job", job), ("job", job), ("host", host), ("host", host)]
    threads = [threading.Thread(target=repeat, args=step) for step in steps]
    for thread in threads:
        thread.start()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures["host"] == []
    cleared = OSError if verb == "clear" else ()
    assert [failure for failure in failures["job"] if not isinstance(failure, cleared)] == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_CACHE_HOME": "/somewhere/cache"},
        {"XDG_CACHE_HOME": "/somewhere/cache", "GPT_FRONTEND_STORE": "/else/where"},
        {"XDG_CACHE_HOME": "", "GPT_FRONTEND_STORE": ""},
    ],
)
def test_both_sides_agree_where_the_store_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str]
) -> None:
    monkeypatch.delenv("GPT_FRONTEND_STORE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Store.of(os.environ).root == artefacts.store_root()


@pytest.mark.parametrize("text", ["lots", "nan", "inf", "-inf", "-1", "1e308", ""])
def test_a_limit_that_is_no_number_of_gib_is_named(tmp_path: Path, text: str) -> None:
    environ = {"GPT_FRONTEND_STORE": str(tmp_path), "GPT_FRONTEND_STORE_GIB": text}
    with pytest.raises(UsageFault, match="GPT_FRONTEND_STORE_GIB=") as caught:
        Store.of(environ)
    assert caught.value.exit_code == 2 and caught.value.hint


def test_naming_a_store_makes_no_folder_until_it_is_prepared(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    store = Store.of({"GPT_FRONTEND_STORE": str(root), "GPT_FRONTEND_STORE_GIB": "1.5"})
    assert store.limit_bytes == 3 * 2**29
    assert (store.size_bytes(), store.trim(), store.clear()) == (0, [], 0)
    assert list(tmp_path.iterdir()) == []
    store.prepare()
    store.prepare()
    assert root.is_dir()


def test_a_store_that_cannot_be_made_is_a_usage_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        store = Store.of({"GPT_FRONTEND_STORE": str(root)})
        with pytest.raises(UsageFault, match="cannot write to the artefact store") as caught:
            store.prepare()
        assert "GPT_FRONTEND_STORE=" in (caught.value.hint or "")
