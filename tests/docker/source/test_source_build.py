"""The source path of docker/Dockerfile from end to end, on the small project.

The image is built as behind a company's proxy: sources come from a mirror whose name the proxy
alone knows, the proxy wants a password, and there is a CA bundle of one's own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.host import image, promise
from bench.host.supply import sbom
from tests.docker.source import servers, traces, trial
from tests.docker.source.conftest import PREFIX, Forge
from tests.docker.source.llvm_tarball import Archive
from tests.docker.source.project import Project
from tests.docker.source.trial import Outcome, Trial

if TYPE_CHECKING:
    from docker import DockerClient

NAME = "planted-name.invalid"
PASSWORD = "planted-proxy-password"
COMMENT = "planted-ca-comment"
COMPILE, CHECKOUT = "compile TVM", "recursive checkout"
BUILT = "/opt/gpt-frontend/built"
LIBRARY = "/opt/venv/lib/python3.11/site-packages/tvm/libtvm.so"


@dataclass(frozen=True)
class Built:
    """``log`` is that of the first compilation, ``asked`` all that the proxy forwarded for it."""

    trial: Trial
    image: image.Image
    log: Outcome
    asked: list[str]
    marks: list[str]


@pytest.fixture(scope="module")
def built(
    prepared: Trial,
    forge: Forge,
    gateway: str,
    client: DockerClient,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Built]:
    real = os.environ.get("REQUESTS_CA_BUNDLE") or "/etc/ssl/certs/ca-certificates.crt"
    bundle = tmp_path_factory.mktemp("ca") / "bundle.pem"
    bundle.write_bytes(Path(real).read_bytes() + f"\n# {COMMENT}\n".encode())
    names = {NAME: forge.server.authority}
    with servers.serve_proxy(gateway, names, login=f"me:{PASSWORD}") as proxy:
        address = f"http://me:{PASSWORD}@{proxy.authority}"
        environ = trial.settings(gateway, http_proxy=address, PIP_CERT=str(bundle))
        behind = prepared.but(
            mirror=forge.mirror.replace(forge.server.authority, NAME), environ=environ
        )
        log = behind.run("compiled")
        assert log.failure is None, log.told
        asked = list(proxy.log.asked)
        made = behind.image()
    token = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    marks = [PASSWORD, token, proxy.authority, NAME, PREFIX.strip("/"), COMMENT]
    marks += [forge.server.authority, str(bundle)]
    yield Built(prepared, made, log, asked, marks)
    client.images.remove(made.tag)


def in_container(client: DockerClient, reference: str, script: str) -> str:
    """What a shell script prints in an image."""
    # One stream: Docker gives the lines of two in no promised order.
    command = ["sh", "-euc", f"exec 2>&1\n{script}"]
    return str(client.containers.run(reference, command, remove=True, stderr=True).decode())


def facts_of(client: DockerClient, reference: str) -> dict[str, Any]:
    """What the build wrote down of itself."""
    facts: dict[str, Any] = json.loads(in_container(client, reference, f"cat {BUILT}/facts.json"))
    return facts


def hits(outcome: Outcome) -> int:
    """ccache's count of hits, at the end of a compilation."""
    found = re.search(r"^#\d+ [\d.]+ +Hits: +(\d+)", outcome.log, re.MULTILINE)
    assert found is not None, "ccache told nothing"
    return int(found[1])


def test_everything_came_by_the_proxy_from_the_mirror(
    built: Built, small: Project, archive: Archive
) -> None:
    mirror = f"http://{NAME}{PREFIX}"
    wanted = [f"{mirror}{small.owner}/{name}" for name in ("tvm", *small.repositories.values())]
    wanted.append(f"{mirror}{trial.path_of(archive)}")
    for url in wanted:
        assert any(url in line for line in built.asked), f"{url} was not asked for"


def test_checkout_is_what_is_locked(
    built: Built, small: Project, archive: Archive, client: DockerClient
) -> None:
    assert f"{small.commit} and {len(small.gitlinks)} submodules, each as locked" in built.log.log
    facts = facts_of(client, built.image.id)
    assert facts["tvm"]["url"] == small.url, "not the public address"
    assert facts["tvm"]["commit"] == small.commit
    assert facts["tvm"]["submodules"] == dict(small.gitlinks)
    assert facts["llvm_config"] == f"/llvm/{archive.folder}/bin/llvm-config"
    assert facts["versions"]["llvm"] == archive.version
    pins = built.trial.pins.versions
    assert [facts["versions"][name] for name in ("cmake", "ninja")] == [pins.cmake, pins.ninja]


def test_bill_has_the_sources_and_the_llvm_as_they_are_locked(
    built: Built, small: Project, archive: Archive, tmp_path: Path
) -> None:
    bill = built.trial.bill(built.image, tmp_path)
    text = sbom.write(bill, "json")
    listed = json.loads(text)["components"]
    others = [one for one in listed if not one["purl"].startswith(("pkg:deb/", "pkg:pypi/"))]
    found = {one["name"]: one for one in others}
    assert len(found) == len(others)
    assert set(found) == {"tvm", "llvm", "gpt-frontend", *small.gitlinks}
    assert found["tvm"]["version"] == small.commit
    assert {name: found[name]["version"] for name in small.gitlinks} == dict(small.gitlinks)
    assert found["llvm"]["version"] == archive.version
    assert found["llvm"]["hashes"] == [{"alg": "SHA-256", "content": archive.sha256}]
    assert not [mark for mark in built.marks if mark in text]


def test_packing_compiles_nothing_again(built: Built) -> None:
    assert "pack: " in built.log.log
    assert "objects again" not in built.log.log


def test_contract_of_the_build_is_kept_and_can_be_broken(
    built: Built, client: DockerClient
) -> None:
    expected = promise.of_labels(built.image.labels, built.trial.pins)
    assert expected.build_type == "Debug"
    promised = expected.model_dump_json()
    broken = expected.model_copy(
        update={"build_type": "Release", "llvm_config": "/usr/bin/llvm-config"}
    ).model_dump_json()
    ask = f"python3 -m bench.build.contract --built {BUILT} --library {LIBRARY} --record /tmp/r"
    script = f"echo '{promised}' >/tmp/e; {ask} --expected /tmp/e\necho '{broken}' >/tmp/e\n"
    told = in_container(client, built.image.id, f"{script}{ask} --expected /tmp/e || echo broken")
    kept, _, rest = told.partition("FAILED")
    for promise_name in ("build type: Debug", "debug symbols of libtvm.so: there", "submodules"):
        assert f"ok      {promise_name}" in kept
    assert f"ok      build id of libtvm.so: {build_id(built, client)}" in kept
    assert "LLVM inside libtvm.so: linked statically" in kept
    assert rest.rstrip().endswith("broken")
    assert "build breaks its contract: build type, llvm-config" in rest


def build_id(built: Built, client: DockerClient) -> str:
    """Of the library in the image, by a tool that is not ours."""
    notes = in_container(client, built.image.id, f"readelf --notes {LIBRARY}")
    found = re.search(r"Build ID: ([0-9a-f]{40})", notes)
    assert found is not None, notes
    return found[1]


def test_python_uses_the_library_that_cmake_built(
    built: Built, archive: Archive, client: DockerClient
) -> None:
    script = "import tvm, json; i = tvm.support.libinfo(); i['length'] = tvm._LIB.TVMSmallModule()"
    script += "; i['path'] = tvm._LIB._name; print(json.dumps(i))"
    info = json.loads(in_container(client, built.image.id, f'python -c "{script}"'))
    assert info["path"] == LIBRARY
    config = f"/llvm/{archive.folder}/bin/llvm-config"
    assert info["USE_LLVM"] == f"{config} --ignore-libllvm --link-static"
    assert info["LLVM_VERSION"] == archive.version
    assert info["USE_CUDA"] == "OFF"
    assert [info[name] for name in ("DMLC", "FFI", "DLPACK")] == ["dmlc-core", "tvm-ffi", "dlpack"]
    assert info["length"] > 0, "LLVM does not answer"


def test_image_has_no_build_tree(built: Built, client: DockerClient) -> None:
    script = "for path in /src /llvm /opt/build /out /cache /mnt/*; do "
    script += 'if [ -e "$path" ]; then echo "$path"; fi; done; '
    # One at a time: dash's command looks at its first name only.
    script += "for name in git ccache; do if command -v $name; then :; fi; done"
    assert in_container(client, built.image.id, script) == ""


def test_nothing_of_the_network_is_left(built: Built, client: DockerClient, tmp_path: Path) -> None:
    there = "TVMSmallModule"  # a name that is in the library, to see that the search finds
    found = traces.found(client, built.image.id, [*built.marks, there], tmp_path)
    assert [place for place in found if not place.startswith(there)] == []
    assert any("libtvm.so" in place for place in found)


def test_nothing_of_the_network_is_in_the_stage_that_compiles(built: Built, tmp_path: Path) -> None:
    """It is in no image, but in the build cache that a team shares (--cache-to)."""
    archive = tmp_path / "stage.tar"
    done = built.trial.run("compiled", output=f"type=tar,dest={archive}")
    assert done.failure is None, done.told
    found = traces.found_in(archive, [*built.marks, built.trial.pins.sources["0.23.0"].url])
    public = [place for place in found if place.startswith("https://github.com/")]
    assert [place for place in found if place not in public] == []
    assert any(place.endswith("src/tvm/.git/config") for place in public)


def test_unchanged_build_does_nothing(built: Built, forge: Forge) -> None:
    before = len(forge.server.log.asked)
    again = built.trial.run("image")
    assert again.failure is None, again.told
    assert [again.state(step) for step in (CHECKOUT, COMPILE)] == ["CACHED", "CACHED"]
    assert len(forge.server.log.asked) == before


def test_change_of_the_project_compiles_nothing(built: Built, forge: Forge, tmp_path: Path) -> None:
    root = shutil.copytree(built.trial.root, tmp_path / "project")
    for path in ("job/gpt.py", "errors.py"):
        with (root / "bench" / path).open("a") as file:
            file.write("# changed\n")
    before = len(forge.server.log.asked)
    changed = built.trial.but(root=root)
    assert changed.plan().content_id != built.trial.plan().content_id
    again = changed.run("image")
    assert again.failure is None, again.told
    assert [again.state(step) for step in (CHECKOUT, COMPILE)] == ["CACHED", "CACHED"]
    assert len(forge.server.log.asked) == before


def test_change_of_the_configuration_compiles_from_ccache(
    built: Built, forge: Forge, tmp_path: Path
) -> None:
    root = shutil.copytree(built.trial.root, tmp_path / "project")
    with (root / "cmake" / "config.cmake").open("a") as file:
        file.write("set(USE_RPC OFF)\n")
    before = len(forge.server.log.asked)
    changed = built.trial.but(root=root)
    assert changed.plan().content_id != built.trial.plan().content_id
    again = changed.run("compiled")
    assert again.failure is None, again.told
    assert [again.state(step) for step in (CHECKOUT, COMPILE)] == ["CACHED", "DONE"]
    assert len(forge.server.log.asked) == before, "something was fetched again"
    assert hits(again) - hits(built.log) >= 4, "ccache was of no use"


def test_proxy_on_the_loopback_of_the_host_is_reached(
    prepared: Trial, forge: Forge, archive: Archive, gateway: str
) -> None:
    project = forge.project()
    with servers.serve_proxy("0.0.0.0", {NAME: forge.server.authority}) as proxy:
        port = proxy.authority.rpartition(":")[2]
        environ = trial.settings(gateway, http_proxy=f"http://127.0.0.1:{port}")
        mirror = forge.mirror.replace(forge.server.authority, NAME)
        build = prepared.with_pins(project, archive).but(mirror=mirror, environ=environ)
        done = build.run("source")
        assert done.failure is None, done.told
        assert proxy.log.matching(f"{project.owner}/dlpack")


def test_local_mirror_answers_in_place_of_the_network(
    prepared: Trial, forge: Forge, archive: Archive, tmp_path: Path
) -> None:
    project = forge.project()
    (tmp_path / "github.com").mkdir()
    (project.root / project.owner).rename(tmp_path / "github.com" / project.owner)
    done = prepared.with_pins(project, archive).run("source", mirror_folder=tmp_path)
    assert done.failure is None, done.told
    assert "from the local mirror" in done.log
    assert forge.server.log.matching(project.owner) == []
