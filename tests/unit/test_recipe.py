"""What a profile and the user's options come to, before anything is built."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.errors import UsageFault
from bench.host import recipe
from bench.host.pins import Pins, load
from bench.host.recipe import BuildRequest, TvmBuild
from bench.host.request import build_request

SHA = "ab" * 32


@pytest.fixture
def pins() -> Pins:
    return load()


def made(pins: Pins, request: BuildRequest) -> TvmBuild:
    build = recipe.tvm_build(request, pins.profile(request.profile or "llvm10"), pins, {})
    assert build is not None
    return build


def test_llvm10_is_debug_with_the_release_archive_and_the_bases_cuda(pins: Pins) -> None:
    build = made(pins, BuildRequest("llvm10"))
    folder = pins.llvm["10.0.0"].folder
    assert build.build_type == "Debug"
    assert build.llvm_config == f"/llvm/{folder}/bin/llvm-config"
    assert folder == "clang+llvm-10.0.0-x86_64-linux-gnu-ubuntu-18.04"
    assert build.arguments["LLVM_SHA256"] == pins.llvm["10.0.0"].sha256
    assert (build.arguments["CUDA_FROM"], build.arguments["CUDA_ARCH"]) == ("base", "80;86;90")
    assert build.arguments["APT_LLVM"] == "libtinfo5"
    lines = build.arguments["SOURCE_GITLINKS"].splitlines()
    assert "3rdparty/tvm-ffi/3rdparty/dlpack 93c8f2a3c774b84af6f652b1992c48164fae60fc" in lines
    assert build.arguments["SOURCE_OWN_GITLINKS"] == ""


def test_cpu_source_takes_the_distributions_llvm_and_no_cuda(pins: Pins) -> None:
    build = made(pins, BuildRequest("cpu-source"))
    assert build.llvm_config == "/usr/lib/llvm-14/bin/llvm-config"
    assert build.arguments["APT_LLVM"] == "llvm-14-dev libpolly-14-dev"
    assert (build.arguments["LLVM_FROM"], build.arguments["CUDA_FROM"]) == ("apt", "none")


def test_wheels_have_nothing_to_compile(pins: Pins) -> None:
    assert recipe.tvm_build(BuildRequest("cpu"), pins.profile("cpu"), pins, {}) is None
    for request in (BuildRequest(build_type="Debug"), BuildRequest(cuda_arch=("86",))):
        with pytest.raises(UsageFault) as caught:
            recipe.tvm_build(request, pins.profile("cpu"), pins, {})
        assert "llvm10" in str(caught.value.hint)


def test_every_build_sets_the_same_arguments_as_none(pins: Pins) -> None:
    """A build argument that one kind of profile leaves out would be empty in the other."""
    for name, profile in pins.profiles.items():
        if profile.from_source:
            assert made(pins, BuildRequest(name)).arguments.keys() <= (
                recipe.NO_TVM_BUILD.keys()
            ), name
    assert made(pins, BuildRequest()).arguments.keys() == recipe.NO_TVM_BUILD.keys()


def test_options_change_what_they_name(pins: Pins) -> None:
    request = build_request(
        profile="llvm10",
        build_type="Release",
        cuda_arch="sm_86, 90a",
        cuda_from_wheels=True,
        llvm="apt:15",
        jobs="3",
    )
    build = made(pins, request)
    assert request.jobs == 3
    assert build.build_type == "Release"
    assert build.cuda_arch == ("86", "90a")
    assert build.cuda_from == "wheels"
    assert build.llvm_version == "15"


def test_an_llvm_archive_is_named_with_its_checksum(pins: Pins) -> None:
    url = "https://host.example/clang+llvm-10.0.0-mine.tar.xz?download=1"
    build = made(pins, BuildRequest("llvm10", llvm_url=url, llvm_sha256=SHA))
    assert build.llvm_config == "/llvm/clang+llvm-10.0.0-mine/bin/llvm-config"
    assert build.llvm_version == "10.0.0"
    assert build.arguments["APT_LLVM"] == "libtinfo5", "what that release needs, wherever it is"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (BuildRequest(llvm_url="https://host.example/a.tar.xz"), "go together"),
        (BuildRequest(llvm_url="https://h.example/a.tar.xz", llvm_sha256="12"), "not a sha256"),
        (BuildRequest(llvm_url="https://h.example/a.deb", llvm_sha256=SHA), "not an archive"),
        (
            BuildRequest(llvm="apt:15", llvm_url="https://h.example/a.tar.xz", llvm_sha256=SHA),
            "exc",
        ),
        (BuildRequest(llvm="11.0.0"), "unknown LLVM"),
        (BuildRequest(build_type="debug"), "unknown build type"),
    ],
)
def test_what_does_not_fit_is_refused(pins: Pins, request_: BuildRequest, said: str) -> None:
    with pytest.raises(UsageFault, match=said) as caught:
        made(pins, request_)
    assert caught.value.hint


def test_cuda_needs_a_profile_that_has_it(pins: Pins) -> None:
    with pytest.raises(UsageFault, match="no CUDA"):
        made(pins, BuildRequest("cpu-source", cuda_from_wheels=True))


@pytest.mark.parametrize("option", [{"cuda_arch": "native"}, {"jobs": "0"}, {"jobs": "many"}])
def test_values_that_cannot_be_used_are_named(option: dict[str, str]) -> None:
    with pytest.raises(UsageFault) as caught:
        build_request(cuda_arch=option.get("cuda_arch"), jobs=option.get("jobs"))
    assert next(iter(option.values())) in caught.value.message


# --- another commit of TVM ---


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "tag.gpgSign=false"]
    command = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "first")
    git(tmp_path, "tag", "-a", "a-tag", "-m", "annotated")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "second")
    return tmp_path


def with_source(pins: Pins, url: str) -> Pins:
    source = pins.sources["0.23.0"].model_copy(update={"url": url})
    return pins.model_copy(update={"sources": {**pins.sources, "0.23.0": source}})


@pytest.mark.parametrize(
    ("ref", "names"), [("a-tag", "HEAD~1"), ("main", "HEAD"), ("HEAD", "HEAD")]
)
def test_a_ref_becomes_the_commit_that_it_names(
    pins: Pins, repository: Path, ref: str, names: str
) -> None:
    """An annotated tag is an object of its own, and not what is checked out."""
    build = made(with_source(pins, str(repository)), BuildRequest(tvm_ref=ref))
    assert build.source.commit == git(repository, "rev-parse", names)
    assert build.own_gitlinks and build.arguments["SOURCE_OWN_GITLINKS"] == "1"
    assert build.arguments["SOURCE_GITLINKS"] == "" == build.arguments["SOURCE_BY_PARENT"]


def test_the_locked_commit_by_its_own_name_keeps_the_lock(pins: Pins) -> None:
    commit = pins.sources["0.23.0"].commit
    build = made(pins, BuildRequest(tvm_ref=commit))
    assert not build.own_gitlinks and build.source == pins.sources["0.23.0"]


def test_a_ref_that_is_not_there_and_a_server_that_is_not(pins: Pins, repository: Path) -> None:
    with pytest.raises(UsageFault, match="no tag or branch other"):
        made(with_source(pins, str(repository)), BuildRequest(tvm_ref="other"))
    with pytest.raises(UsageFault, match="git cannot ask"):
        made(with_source(pins, str(repository / "none")), BuildRequest(tvm_ref="other"))


def test_the_solver_is_asked_of_a_release_and_not_of_a_commit(pins: Pins) -> None:
    for ref, version in (("v0.24.0", "0.24.0"), ("892afac0" * 5, "0.23.0"), ("main", "0.23.0")):
        asked = recipe.toolchain_of(BuildRequest(tvm_ref=ref), "llvm10", pins, None)
        assert asked.tvm == version
    own = recipe.toolchain_of(
        BuildRequest(llvm_url="https://x.example/a.tar.xz"), "llvm10", pins, None
    )
    assert not own.llvm, "of an archive by its address nothing is known"


def test_a_locked_release_brings_all_that_is_locked_with_it(pins: Pins) -> None:
    build = made(pins, BuildRequest("latest", tvm_ref="v0.23.0", llvm="apt:14"))
    assert build.version == "0.23.0" and not build.own_gitlinks
    assert build.source == pins.sources["0.23.0"]


def test_a_release_that_is_not_locked_is_refused(pins: Pins) -> None:
    with pytest.raises(UsageFault, match=r"v0\.22\.0 is not locked") as caught:
        made(pins, BuildRequest(tvm_ref="v0.22.0"))
    assert "v0.23.0" in str(caught.value.hint)


def test_a_password_in_an_archives_address_is_refused_and_not_repeated(pins: Pins) -> None:
    url = "https://me:hunter2@host.example/a.tar.xz"
    with pytest.raises(UsageFault, match="password") as caught:
        made(pins, BuildRequest(llvm_url=url, llvm_sha256=SHA))
    assert "hunter2" not in caught.value.message + str(caught.value.hint)
