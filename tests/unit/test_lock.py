"""The parts of the lock, against servers on loopback that speak the real protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build.fetch.patience import Patience
from bench.host.lock import archives, base, registry, sources, weights
from bench.host.lock.part import Part
from bench.host.mirrors import Mirrors
from bench.host.pins import Pins, Source, WeightsPin, load
from bench.host.web import CannotAsk
from tests.unit import git_server, hub_server, registry_server
from tests.unit.git_server import CODE, Origin, Server, git
from tests.unit.registry_server import Registry, digest

QUIET = Patience(attempts=1, pause_s=0.0)


def ignored(_: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def pins() -> Pins:
    return load()


@pytest.fixture
def server() -> Iterator[Registry]:
    images = {"library/debian": {"bookworm-slim": "now"}, "nvidia/cuda": {}}
    with registry_server.serving(Registry(images)) as state:
        yield state


def through(server: Registry) -> Mirrors:
    return Mirrors(registry=server.host)


# --- the registry ---


def test_a_tag_has_the_digest_of_what_the_registry_answers(server: Registry) -> None:
    assert registry.digest("debian:bookworm-slim", through(server), {}) == digest("now")


def test_a_token_is_fetched_where_the_registry_says(server: Registry) -> None:
    server.token = "t0ken"
    assert registry.digest("debian:bookworm-slim", through(server), {}) == digest("now")
    assert [path.partition("?")[0] for path in server.asked] == [
        "/v2/library/debian/manifests/bookworm-slim",
        "/token",
        "/v2/library/debian/manifests/bookworm-slim",
    ]


def test_a_registry_that_wants_a_password_is_not_asked_further(server: Registry) -> None:
    server.basic = True
    with pytest.raises(CannotAsk, match="it wants a login"):
        registry.digest("debian:bookworm-slim", through(server), {})


def test_a_digest_that_is_not_the_answers_own_is_refused(server: Registry) -> None:
    server.lies = True
    with pytest.raises(CannotAsk, match="its header says"):
        registry.digest("debian:bookworm-slim", through(server), {})


def test_tags_are_read_page_by_page(server: Registry) -> None:
    server.page = 2
    server.images["library/debian"] = {f"t{number}": "x" for number in range(5)}
    found = registry.tags("debian:any", through(server), {})
    assert found == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize(
    ("ref", "place"),
    [
        ("debian:12", ("https://registry-1.docker.io", "library/debian", "12")),
        ("nvidia/cuda:12@sha256:00", ("https://registry-1.docker.io", "nvidia/cuda", "12")),
        ("docker.io/debian", ("https://registry-1.docker.io", "library/debian", "latest")),
        ("registry.example:5000/a/b:c", ("https://registry.example:5000", "a/b", "c")),
        ("localhost:5000/a:c", ("http://localhost:5000", "a", "c")),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(ref: str, place: tuple[str, str, str]) -> None:
    assert registry.place_of(ref, Mirrors()) == registry.Place(*place)


def test_a_base_that_was_published_anew_is_a_change_and_an_absent_one_is_named(
    server: Registry, pins: Pins
) -> None:
    part = base.resolve(pins, through(server), {}, ignored)
    # Three profiles share one base, which is asked for once; NVIDIA's are not there.
    assert sum("bookworm-slim" in path for path in server.asked) == 1
    places = [change.place for change in part.changes]
    assert places == ["profiles.cpu.base", "profiles.cuda-wheels.base", "profiles.cpu-source.base"]
    assert part.changes[0].old == pins.profile("cpu").base.partition("@")[2]
    assert part.changes[0].new == digest("now")
    wanted = f"debian:bookworm-slim@{digest('now')}"
    assert part.edits[("profiles", "cpu", "base")] == wanted
    assert [one.place for one in part.unasked] == ["profiles.llvm10.base", "profiles.latest.base"]
    assert "404" in part.unasked[0].why


def test_a_base_as_locked_is_no_change(server: Registry, pins: Pins) -> None:
    profile = pins.profile("cpu").model_copy(
        update={"base": f"debian:bookworm-slim@{digest('now')}"}
    )
    part = base.resolve(
        pins.model_copy(update={"profiles": {"cpu": profile}}), through(server), {}, ignored
    )
    assert (part.same, part.changes, part.unasked) == (["profiles.cpu.base"], [], [])


def test_a_registry_that_is_not_there_leaves_everything_not_checked(pins: Pins) -> None:
    part = base.resolve(pins, Mirrors(registry="127.0.0.1:9"), {}, ignored)
    assert len(part.unasked) == len(pins.profiles) and not part.changes and not part.edits


# --- archives ---


def test_an_archive_that_is_another_file_now_is_drift_and_a_new_ones_checksum_is_found(
    server: Registry, pins: Pins
) -> None:
    server.files = {"/llvm.tar.xz": b"one archive", "/text.txt": b"a text"}
    right = hashlib.sha256(b"one archive").hexdigest()
    llvm = pins.llvm["10.0.0"].model_copy(
        update={"url": "https://code.example/llvm.tar.xz", "sha256": right}
    )
    other = llvm.model_copy(update={"sha256": "1" * 64})
    text = pins.texts["tinyshakespeare"].model_copy(
        update={"url": "https://code.example/text.txt", "sha256": "0" * 64}
    )
    mine = pins.model_copy(update={"llvm": {"10.0.0": llvm, "11.0.0": other}, "texts": {"t": text}})
    ways = Mirrors(git={"https://code.example/": f"http://{server.host}/"})
    part = archives.resolve(mine, ways, {}, ignored)
    assert part.same == ['llvm."10.0.0".sha256']
    ((change,), found) = part.changes, hashlib.sha256(b"a text").hexdigest()
    assert (change.place, change.old, change.new) == ("texts.t.sha256", "0" * 64, found)
    assert "first checksum" in change.meaning
    (sentence,) = part.drift
    assert f"has the sha256 {right}, locked is {'1' * 64}. A release does not change" in sentence
    assert part.edits == {("texts", "t", "sha256"): found}


# --- weights ---


def test_weights_get_the_checksum_that_they_lack_and_another_one_is_drift(pins: Pins) -> None:
    right = hashlib.sha256(b"tensors").hexdigest()
    pinned = {
        name: WeightsPin(repo=repo, revision=hub_server.COMMIT, sha256=sha256)
        for name, repo, sha256 in (
            ("same", "owner/tiny", right),
            ("first", "owner/tiny", None),
            ("other", "owner/tiny", "0" * 64),
            ("absent", "owner/none", None),
        )
    }
    mine = pins.model_copy(update={"weights": pinned})
    with hub_server.served(hub_server.Hub(files={"model.safetensors": b"tensors"})) as hub:
        part = weights.resolve(mine, {"HF_ENDPOINT": hub.url}, ignored)
        assert not any("large" in path or "resolve" in path for path in hub.paths)
    assert part.same == ["weights.same.sha256"]
    assert part.edits == {("weights", "first", "sha256"): right}
    (sentence,) = part.drift
    assert sentence.startswith("weights.other.sha256: the hub states " + right)
    assert [one.place for one in part.unasked] == ["weights.absent.sha256"]


def test_a_hub_that_is_switched_off_is_not_asked(pins: Pins) -> None:
    part = weights.resolve(pins, {"HF_HUB_OFFLINE": "1"}, ignored)
    assert {one.why for one in part.unasked} == {"HF_HUB_OFFLINE is set"}


# --- sources ---


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    made = git_server.make_origin(tmp_path_factory.mktemp("origin"))
    bare = made.root / "lib" / "tvm.git"
    git("tag", "-a", "-m", "release", "v1.0.0", made.commits["tvm"], cwd=bare)
    git("tag", "v1.1.0", "main", cwd=bare)
    return made


@pytest.fixture
def code(origin: Origin) -> Iterator[Server]:
    with git_server.serving(origin.root) as state:
        yield state


def date_of(origin: Origin) -> int:
    bare = origin.root / "lib" / "tvm.git"
    return int(git("log", "-1", "--format=%ct", origin.commits["tvm"], cwd=bare))


def sourced(pins: Pins, origin: Origin, **changes: object) -> Pins:
    """The pins with one source, that of the small project."""
    fields = {
        "url": f"{CODE}/lib/tvm",
        "commit": origin.commits["tvm"],
        "tvm_ffi": "0.1.0",
        "source_date_epoch": date_of(origin),
        "gitlinks": origin.gitlinks,
        **changes,
    }
    return pins.model_copy(update={"sources": {"1.0.0": Source.model_validate(fields)}})


def ask(pins: Pins, code: Server, tmp_path: Path) -> Part:
    ways = Mirrors(git={f"{CODE}/": f"{code.url}/"})
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": "/dev/null"}
    return sources.resolve(pins, ways, environ, ignored, patience=QUIET)


def test_sources_as_locked_are_found_so_to_the_last_nested_gitlink(
    pins: Pins, origin: Origin, code: Server, tmp_path: Path
) -> None:
    part = ask(sourced(pins, origin), code, tmp_path)
    assert (part.changes, part.drift, part.unasked, part.edits) == ([], [], [], {})
    assert part.same == [
        'sources."1.0.0".commit',
        'sources."1.0.0".source_date_epoch',
        *(f'sources."1.0.0".gitlinks."{path}"' for path in sorted(origin.gitlinks)),
    ]


def test_a_gitlink_that_is_wrong_missing_or_too_many_is_a_change(
    pins: Pins, origin: Origin, code: Server, tmp_path: Path
) -> None:
    links = {**origin.gitlinks, "3rdparty/rang": "0" * 40, "3rdparty/gone": "1" * 40}
    del links["3rdparty/ffi/3rdparty/dlpack"]
    mine = sourced(pins, origin, gitlinks=links, read_by_parent=("3rdparty/ffi/3rdparty/dlpack",))
    part = ask(mine, code, tmp_path)
    table = ("sources", "1.0.0", "gitlinks")
    assert part.edits == {
        (*table, "3rdparty/ffi/3rdparty/dlpack"): origin.commits["dlpack"],
        (*table, "3rdparty/gone"): None,
        (*table, "3rdparty/rang"): origin.commits["rang"],
        ("sources", "1.0.0", "read_by_parent"): [],
    }
    assert [change.old for change in part.changes][:2] == ["(not listed)", "1" * 40]
    assert "3rdparty/ffi" in " ".join(part.same)


def test_the_date_of_another_commit_is_a_change(
    pins: Pins, origin: Origin, code: Server, tmp_path: Path
) -> None:
    part = ask(sourced(pins, origin, source_date_epoch=10**9), code, tmp_path)
    assert part.edits == {("sources", "1.0.0", "source_date_epoch"): date_of(origin)}
    assert [one.old for one in part.changes] == [str(10**9)]


def test_a_tag_that_has_moved_is_drift_and_never_written(
    pins: Pins, origin: Origin, code: Server, tmp_path: Path
) -> None:
    other = git("rev-parse", "main", cwd=origin.root / "lib" / "tvm.git")
    part = ask(sourced(pins, origin, commit=other), code, tmp_path)
    (sentence,) = part.drift
    assert f"is now {origin.commits['tvm']}, locked is {other}" in sentence
    assert ("sources", "1.0.0", "commit") not in part.edits


def test_below_a_submodule_that_is_not_there_the_old_list_stays(
    pins: Pins, origin: Origin, code: Server, tmp_path: Path
) -> None:
    absent = origin.root / "lib" / "ffi.git"
    hidden = absent.rename(origin.root / "lib" / "hidden.git")
    try:
        part = ask(sourced(pins, origin), code, tmp_path)
    finally:
        hidden.rename(absent)
    (one,) = part.unasked
    assert one.place == 'sources."1.0.0".gitlinks below 3rdparty/ffi'
    assert (part.changes, part.edits) == ([], {})


def test_a_host_that_does_not_answer_leaves_the_sources_as_they_are(
    pins: Pins, origin: Origin, code: Server, tmp_path: Path
) -> None:
    code.refuses = 1000
    part = ask(sourced(pins, origin), code, tmp_path)
    places = [one.place for one in part.unasked]
    assert places == ['sources."1.0.0".commit', 'sources."1.0.0".gitlinks']
    assert not part.changes and not part.edits
