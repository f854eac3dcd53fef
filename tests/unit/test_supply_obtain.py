"""The image that a record names: which ways give it, and that no other passes for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import pins
from bench.host.history import measuring
from bench.host.supply import obtain, rebuild
from bench.host.supply.obtain import Found
from bench.record import ImageRef
from tests.conftest import ROOT
from tests.unit.histories import image

WANTED = image(digit="a")


def found(digit: str) -> Found:
    ref = image(digit=digit)
    return Found(ref, obtain.digests(ref))


class Images:
    """The images of an engine: by what they are asked for, and all of them."""

    def __init__(self, *images: Any) -> None:
        self._images = images

    def get(self, name: str) -> Any:
        from docker.errors import ImageNotFound

        for one in self._images:
            if name in (one.id, *one.tags):
                return one
        raise ImageNotFound(name)

    def list(self) -> list[Any]:
        return list(self._images)


def engine(*images: Any) -> Any:
    return SimpleNamespace(images=Images(*images))


def in_engine(digit: str, *tags: str, digests: tuple[str, ...] = ()) -> Any:
    named = [f"gpt-frontend@{one}" for one in digests]
    return SimpleNamespace(
        id=f"sha256:{digit * 64}", tags=list(tags), labels={}, attrs={"RepoDigests": named}
    )


def test_the_first_way_that_gives_the_image_is_taken_and_named() -> None:
    never = pytest.fail
    got = obtain.obtain(
        WANTED,
        [
            ("present", lambda: "it is not there"),
            ("loaded", lambda: found("a")),
            ("built", lambda: never("an image that is there was built")),
        ],
        allow_other=False,
    )
    assert (got.how, got.same, got.image) == ("loaded", True, WANTED)


def test_another_image_is_refused_and_every_way_says_why() -> None:
    ways: list[obtain.Way] = [("present", lambda: "not there"), ("of its tag", lambda: found("b"))]
    with pytest.raises(UsageFault) as caught:
        obtain.obtain(WANTED, ways, allow_other=False)
    assert "present: not there" in caught.value.message
    assert f"of its tag: it is sha256:{'b' * 64}, another image" in caught.value.message
    assert "--allow image" in str(caught.value.hint)


def test_another_image_is_taken_where_that_is_allowed_and_is_not_called_the_same() -> None:
    ways: list[obtain.Way] = [
        ("of its tag", lambda: found("b")),
        ("built", lambda: pytest.fail("built although another is there and allowed")),
    ]
    got = obtain.obtain(WANTED, ways, allow_other=True)
    assert (got.how, got.same) == ("of its tag", False)


def test_nothing_to_allow_is_not_offered() -> None:
    with pytest.raises(UsageFault) as caught:
        obtain.obtain(WANTED, [("present", lambda: "not there")], allow_other=True)
    assert "--allow image" not in str(caught.value.hint)


def test_an_image_is_found_by_its_digest_whatever_it_is_called() -> None:
    here = in_engine("a", "other:name")
    got = obtain.present(engine(in_engine("b", WANTED.tag), here), WANTED)
    assert isinstance(got, Found) and got.image.id == WANTED.id and got.image.tag == WANTED.tag


def test_an_image_is_found_by_its_manifest_where_the_engine_calls_it_by_its_configuration() -> None:
    manifest = f"sha256:{'c' * 64}"
    wanted = ImageRef(id=manifest, digest=manifest, tag=WANTED.tag, labels={})
    got = obtain.present(engine(in_engine("d", digests=(manifest,))), wanted)
    assert isinstance(got, Found) and manifest in got.digests


def test_a_tag_alone_does_not_make_an_image_present() -> None:
    there = engine(in_engine("b", WANTED.tag))
    assert obtain.present(there, WANTED) == "the engine does not have it"
    assert isinstance(obtain.namesake(there, WANTED), Found)


LABELS = {
    "io.gpt-frontend.profile": "llvm10",
    "io.gpt-frontend.base": "gpt-frontend/base:bookworm",
    "io.gpt-frontend.build.build_type": "Debug",
    "io.gpt-frontend.build.cuda_arch": "80,86",
    "io.gpt-frontend.build.cuda_from": "wheels",
    "io.gpt-frontend.build.llvm": "14",
    "io.gpt-frontend.build.llvm_config": "/usr/lib/llvm-14/bin/llvm-config",
    "io.gpt-frontend.build.tvm_commit": "1" * 40,
}


def test_labels_give_the_options_that_made_the_image() -> None:
    chosen = rebuild.options(LABELS, pins.load())
    assert chosen == [
        *("--profile", "llvm10", "--tvm-ref", "1" * 40, "--build-type", "Debug"),
        *("--llvm", "apt:14", "--cuda-arch", "80,86", "--cuda-from-wheels"),
    ]
    other = {"io.gpt-frontend.profile": "cpu", "io.gpt-frontend.base": "debian:12@sha256:0"}
    assert rebuild.options(other, pins.load()) == [
        *("--profile", "cpu", "--base", "debian:12@sha256:0")
    ]


def test_every_option_that_labels_give_is_one_of_build_image() -> None:
    from bench.tasks.images import build_image

    known = {option for one in build_image.get_arguments() for option in one.names}
    for option in rebuild.options(LABELS, pins.load()):
        if option.startswith("--"):
            assert option.removeprefix("--").replace("-", "_") in known or (
                option.removeprefix("--") in known
            )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, "its labels do not say"),
        ({**LABELS, "io.gpt-frontend.private-commit": "2" * 40}, "a private repository"),
    ],
)
def test_what_cannot_be_built_again_says_why(labels: dict[str, str], said: str) -> None:
    wanted = WANTED.model_copy(update={"labels": labels})
    assert said in str(rebuild.rebuild(wanted, "HEAD", ROOT, pins.load()))


def test_a_private_repository_is_built_again_by_whoever_knows_its_address() -> None:
    labels = {**LABELS, "io.gpt-frontend.private-commit": "2" * 40}
    url = "git@host.example:me/it.git"
    chosen = rebuild.asked(labels, pins.load(), url)
    assert (chosen["private_repo"], chosen["private_ref"]) == (url, "2" * 40)
    with pytest.raises(UsageFault, match="no private repository is in it"):
        rebuild.asked(LABELS, pins.load(), url)


def test_a_record_without_a_commit_or_of_a_strange_one_cannot_be_built(tmp_path: Path) -> None:
    wanted = WANTED.model_copy(update={"labels": LABELS})
    assert "names no commit" in str(rebuild.rebuild(wanted, None, ROOT, pins.load()))
    assert "git knows no commit" in str(rebuild.rebuild(wanted, "3" * 40, ROOT, pins.load()))


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("docker buildx …\ngpt-frontend:cpu-2 would be built", "makes another image: gpt-frontend"),
        (f"docker buildx --tag {WANTED.tag}-unverified .\n{WANTED.tag} would be built", None),
    ],
)
def test_a_commit_is_asked_what_it_makes_before_it_is_built(
    printed: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def in_tree(command: list[str], tree: Path) -> tuple[int, str, str]:
        ran.append(list(command))
        assert (tree / "tasks.py").is_file(), "the commit is not checked out"
        return 0, "", printed

    monkeypatch.setattr(measuring, "in_tree", in_tree)
    wanted = WANTED.model_copy(update={"labels": {"io.gpt-frontend.profile": "cpu"}})
    refused = rebuild.rebuild(wanted, "HEAD", ROOT, pins.load())
    assert "--dry-run" in ran[0]
    if said is None:
        assert refused is None and len(ran) == 2 and "--dry-run" not in ran[1]
    else:
        assert said in str(refused) and len(ran) == 1
