"""What goes wrong on the way to the sources: named as what it is, and mended without starting over.

Each build runs up to the stage that fails, against servers that fail for real.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from tests.docker.source import llvm_tarball, servers, tls
from tests.docker.source.conftest import Forge
from tests.docker.source.llvm_tarball import Archive
from tests.docker.source.project import CORE, FFI, NESTED, Project, address
from tests.docker.source.servers import Cut
from tests.docker.source.trial import Outcome, Trial

ABSENT = "deadbeef" * 5
PASSWORD = "planted-proxy-password"


def fetches(forge: Forge, project: Project, repository: str) -> int:
    """How often a repository's content was asked for."""
    path = f"^POST .*/{project.owner}/{repository}(.git)?/git-upload-pack"
    return len(forge.server.log.matching(path))


def test_missing_submodule_is_named_and_the_rest_is_kept(
    prepared: Trial, forge: Forge, archive: Archive
) -> None:
    project = forge.project()
    build = prepared.with_pins(project, archive)
    there = project.root / project.owner / "dlpack.git"
    away = there.rename(there.with_suffix(".away"))
    failed = build.run("source")
    assert f"error: {address(project.owner, 'dlpack')}" in failed.told
    assert "a mirror may lack this repository" in failed.told
    before = [fetches(forge, project, name) for name in ("tvm", "tvm-ffi", "dmlc-core")]
    assert all(before)
    away.rename(there)
    mended = build.run("source")
    assert mended.failure is None, mended.told
    assert f"{project.commit} and 3 submodules, each as locked" in mended.log
    after = [fetches(forge, project, name) for name in ("tvm", "tvm-ffi", "dmlc-core")]
    assert after == before, "a finished repository was fetched again"


def test_commit_that_no_server_has(prepared: Trial, forge: Forge, archive: Archive) -> None:
    project = forge.project()
    lost = Project(project.root, project.owner, ABSENT, project.gitlinks, project.repositories)
    failed = prepared.with_pins(lost, archive).run("source")
    assert f"error: {project.url} at {ABSENT[:12]}" in failed.told
    assert "a mirror" in failed.told and "docker/pins.toml" in failed.told


@pytest.mark.parametrize("path", [CORE, NESTED])
def test_submodule_at_another_commit_than_locked(
    prepared: Trial, small: Project, archive: Archive, path: str
) -> None:
    links = {**small.gitlinks, path: ABSENT}
    other = Project(small.root, small.owner, small.commit, links, small.repositories)
    failed = prepared.with_pins(other, archive).run("source")
    real = small.gitlinks[path]
    assert f"error: {path}: different: checked out {real}, locked {ABSENT}" in failed.told
    assert f'"{path}" = "{real}"' in failed.told, "no word of what mends it"


def test_submodules_that_are_locked_or_there_but_not_both(
    prepared: Trial, small: Project, archive: Archive
) -> None:
    links = {CORE: small.gitlinks[CORE], FFI: small.gitlinks[FFI], "3rdparty/gone": ABSENT}
    other = Project(small.root, small.owner, small.commit, links, small.repositories)
    failed = prepared.with_pins(other, archive).run("source")
    assert f"error: {NESTED}: a submodule that is not locked" in failed.told
    assert "error: 3rdparty/gone: locked at" in failed.told


def test_transfer_cut_in_its_middle_is_tried_again(
    prepared: Trial, forge: Forge, archive: Archive
) -> None:
    project = forge.project()
    cut = Cut(f"POST .*/{project.owner}/tvm-ffi.*upload-pack", times=2, after=300_000)
    forge.server.log.cuts.append(cut)
    done = prepared.with_pins(project, archive).run("source")
    assert done.failure is None, done.told
    assert cut.times == 0, "nothing was cut"
    assert fetches(forge, project, "tvm-ffi") > 2
    assert "attempt 2 of" in done.log


def test_clone_that_stays_cut_goes_on_later_where_it_was(
    prepared: Trial, forge: Forge, archive: Archive
) -> None:
    project = forge.project()
    build = prepared.with_pins(project, archive)
    cut = Cut(f"POST .*/{project.owner}/tvm-ffi.*upload-pack", times=99, after=300_000)
    forge.server.log.cuts.append(cut)
    failed = build.run("source")
    assert f"error: {address(project.owner, 'tvm-ffi')}" in failed.told
    assert "cut the transfer" in failed.told
    assert "--mirror github=URL" in failed.told
    before = [fetches(forge, project, name) for name in ("tvm", "dmlc-core")]
    cut.times = 0
    mended = build.run("source")
    assert mended.failure is None, mended.told
    assert [fetches(forge, project, name) for name in ("tvm", "dmlc-core")] == before


def test_wrong_checksum_stops_the_build(
    prepared: Trial, small: Project, forge: Forge, llvm: Path, tmp_path: Path
) -> None:
    archive = forge.publish(llvm_tarball.pack(llvm, tmp_path))
    wanted = Archive(archive.path, "0" * 64, archive.folder, archive.version)
    failed = prepared.with_pins(small, wanted).run("llvm-archive")
    assert "wrong checksum" in failed.told
    assert f"sha256 {archive.sha256}, expected {'0' * 64}" in failed.told
    mended = prepared.with_pins(small, archive).run("llvm-archive")
    assert mended.failure is None, mended.told


def test_download_cut_in_its_middle_goes_on_from_there(
    prepared: Trial, small: Project, forge: Forge, llvm: Path, tmp_path: Path
) -> None:
    archive = forge.publish(llvm_tarball.pack(llvm, tmp_path))
    size = archive.path.stat().st_size
    cut = Cut(re.escape(archive.path.name), times=1, after=size // 2)
    forge.server.log.cuts.append(cut)
    done = prepared.with_pins(small, archive).run("llvm-archive")
    assert done.failure is None, done.told
    first, second = forge.server.log.matching(f"^GET .*{re.escape(archive.path.name)}")
    assert "bytes=" not in first
    assert 0 < int(second.partition("bytes=")[2].rstrip("-")) <= size // 2


def test_proxy_that_is_required(
    prepared: Trial, forge: Forge, archive: Archive, gateway: str
) -> None:
    """The way to the mirror is shut but for the proxy, and the proxy asks for a password."""
    project = forge.project()
    with socket.create_server((gateway, 0)) as taken:
        shut = f"{gateway}:{taken.getsockname()[1]}"
    mirror = forge.mirror.replace(forge.server.authority, shut)
    build = prepared.with_pins(project, archive).but(mirror=mirror)
    failed = build.run("source")
    assert f"error: {project.url}" in failed.told
    assert f"Failed to connect to {gateway}" in failed.told
    assert "the proxy (https_proxy)" in failed.told
    with servers.serve_proxy(gateway, {shut: forge.server.authority}, f"me:{PASSWORD}") as proxy:

        def through(login: str) -> Outcome:
            address = f"http://{login}{proxy.authority}"
            environ = {**os.environ, "NO_PROXY": "", "http_proxy": address}
            return build.but(environ=environ).run("source")

        refused = through("")
        assert "407" in refused.told
        assert "the proxy wants a user and a password" in refused.told
        assert "http://USER:PASSWORD@HOST:PORT" in refused.told
        done = through(f"me:{PASSWORD}@")
        assert done.failure is None, done.told
        assert PASSWORD not in done.log
        assert proxy.log.matching(f"{project.owner}/dlpack")


def test_certificate_of_ones_own_authority(
    prepared: Trial, forge: Forge, archive: Archive, gateway: str, tmp_path: Path
) -> None:
    """A company's proxy that opens TLS: refused without its CA bundle, accepted with it."""
    project = forge.project()
    authority = tls.Authority.make(tmp_path)
    context = authority.context_for(gateway)
    with servers.serve_forge(gateway, forge.root, {}, context=context) as server:
        build = prepared.with_pins(project, archive).but(mirror=f"https://{server.authority}/")
        failed = build.run("source")
        assert "certificate verif" in failed.told.lower()
        assert "export REQUESTS_CA_BUNDLE=FILE" in failed.told
        environ = {**build.environ, "PIP_CERT": str(authority.bundle)}
        done = build.but(environ=environ).run("source")
        assert done.failure is None, done.told
        assert server.log.matching(f"{project.owner}/dlpack")
