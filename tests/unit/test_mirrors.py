"""Mirrors as a user names them, and what git, sed, pip and a build make of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench.errors import UsageFault
from bench.host import mirrors, network
from bench.host.mirrors import Mirrors, base_ref, load


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}


def config(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)
    return folder / "config.toml"


def test_nothing_said_is_no_mirror(environ: dict[str, str]) -> None:
    found = load([], environ)
    assert found == Mirrors()
    assert found.gitconfig == "" and found.url_table is None and found.apt_script is None
    assert found.git_variables == {} and found.urls == ()


def test_options_by_repetition_and_by_commas(environ: dict[str, str]) -> None:
    found = load(
        [
            "github=https://m.example/gh,pip=https://m.example/simple/",
            "apt=http://m.example:8080",
            "gitlab.com=ssh://git@m.example/gl/",
            "registry=https://m.example:5000/hub/",
        ],
        environ,
    )
    assert found == Mirrors(
        git={
            "https://github.com/": "https://m.example/gh/",
            "https://gitlab.com/": "ssh://git@m.example/gl/",
        },
        apt="http://m.example:8080/",
        pip="https://m.example/simple",
        registry="m.example:5000/hub",
    )
    commas = load(["github=https://m.example/a,b/gh"], environ)
    assert commas.git == {"https://github.com/": "https://m.example/a,b/gh/"}


def test_the_config_file_and_the_command_line_over_it(
    environ: dict[str, str], tmp_path: Path
) -> None:
    home = config(
        tmp_path / ".config" / "gpt-frontend",
        '[mirrors]\ngithub = "https://home.example"\ngitlab.com = "https://lab.example"\n'
        "[other]\nkey = 1\n",
    )
    found = load(["github=https://line.example"], environ)
    assert found.git == {
        "https://github.com/": "https://line.example/",
        "https://gitlab.com/": "https://lab.example/",
    }
    config(tmp_path / "xdg" / "gpt-frontend", '[mirrors]\napt = "http://xdg.example"\n')
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert load([], environ) == Mirrors(apt="http://xdg.example/")
    environ["GPT_FRONTEND_CONFIG"] = str(home)
    assert load([], environ).git["https://github.com/"] == "https://home.example/"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("github", "is not NAME=URL"),
        ("github=", "is not NAME=URL"),
        ("githab=https://m.example", "no mirror's name"),
        ("github=m.example", "is not an address"),
        ("github=ftp://m.example", "is not an address"),
        ("github=https://", "is not an address"),
        ("github=https://m.example:port/", "is not an address"),
        ('github=https://m.example/"]x', "is not an address"),
        ("apt=https://m.example/a#b", "is not an address"),
        ("apt=ssh://m.example/", "is not an address"),
        ("github=file:///srv/git", "a build cannot see"),
        ("github=/srv/git", "a build cannot see"),
        ("registry=me:hunter2@m.example", "a user or a password"),
        ("registry=hub", "is not HOST"),
    ],
)
def test_options_that_are_refused(environ: dict[str, str], option: str, message: str) -> None:
    with pytest.raises(UsageFault, match=message) as caught:
        load([option], environ)
    assert caught.value.hint
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mirrors", "cannot read"),
        ("mirrors = 1", "is not a table"),
        ("[mirrors]\napt = 1", "is not a text"),
        ('[mirrors]\nnowhere = "https://m.example"', "no mirror's name"),
    ],
)
def test_files_that_are_refused(
    environ: dict[str, str], tmp_path: Path, text: str, message: str
) -> None:
    environ["GPT_FRONTEND_CONFIG"] = str(config(tmp_path, text))
    with pytest.raises(UsageFault, match=message) as caught:
        load([], environ)
    assert str(tmp_path) in caught.value.message


def test_a_named_file_has_to_be_there(environ: dict[str, str]) -> None:
    with pytest.raises(UsageFault, match="is not there"):
        load([], environ | {"GPT_FRONTEND_CONFIG": "/nowhere.toml"})


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/apache/tvm",
        "git@github.com:apache/tvm",
        "ssh://git@github.com/apache/tvm",
        "git://github.com/apache/tvm",
    ],
)
@pytest.mark.parametrize("by", ["file", "variables"])
def test_git_itself_goes_to_the_mirror(
    environ: dict[str, str], tmp_path: Path, url: str, by: str
) -> None:
    found = load(["github=https://me:x%20y@m.example/gh"], environ)
    if by == "file":
        (tmp_path / "gitconfig").write_text(found.gitconfig)
        environ["GIT_CONFIG_GLOBAL"] = str(tmp_path / "gitconfig")
    else:
        environ |= found.git_variables
    argv = ["git", "ls-remote", "--get-url", url]
    shown = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
    assert shown.stdout == "https://me:x%20y@m.example/gh/apache/tvm\n"
    argv[-1] = "https://github.community/apache/tvm"
    shown = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
    assert shown.stdout == f"{argv[-1]}\n"


def test_downloads_go_to_web_mirrors_only(environ: dict[str, str]) -> None:
    release = "https://github.com/llvm/llvm-project/releases/download/x.tar.xz"
    found = load(["github=https://m.example/https://github.com"], environ)
    assert found.rewrite(release) == f"https://m.example/{release}"
    assert found.rewrite("https://github.community/x") == "https://github.community/x"
    assert json.loads(found.url_table or "") == found.git
    over_ssh = load(["github=ssh://git@m.example"], environ)
    assert over_ssh.rewrite(release) == release and over_ssh.url_table is None


def test_apt_sources_of_a_base_are_turned_to_the_mirror(
    environ: dict[str, str], tmp_path: Path
) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(
        "deb http://one.example/debian bookworm main\n"
        "deb https://one.example/debian-security bookworm-security main\n"
        "deb http://archive.ubuntu.com/ubuntu/ jammy main\n"
        "deb http://de.archive.ubuntu.com/ubuntu/ jammy main\n"
        "URIs: http://security.ubuntu.com/ubuntu/\n"
        "deb http://third.example/repo bookworm main\n"
        "URIs: http://one.example/debian\n"
    )
    script = tmp_path / "script"
    script.write_text(load(["apt=http://a&b:x@m.example/all"], environ).apt_script or "")
    argv = ["sed", "-f", str(script), str(sources)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True)
    mirror = "http://a&b:x@m.example/all"
    assert shown.stdout == (
        f"deb {mirror}/debian bookworm main\n"
        f"deb {mirror}/debian-security bookworm-security main\n"
        f"deb {mirror}/ubuntu/ jammy main\n"
        f"deb {mirror}/ubuntu/ jammy main\n"
        f"URIs: {mirror}/ubuntu/\n"
        "deb http://third.example/repo bookworm main\n"
        f"URIs: {mirror}/debian\n"
    )


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("debian:bookworm-slim@sha256:12", "m.example/hub/library/debian:bookworm-slim@sha256:12"),
        ("nvidia/cuda:12.4.1-devel", "m.example/hub/nvidia/cuda:12.4.1-devel"),
        ("docker.io/library/debian:12", "m.example/hub/library/debian:12"),
        ("docker.io/debian:12", "m.example/hub/library/debian:12"),
        ("nvcr.io/nvidia/cuda:12", "nvcr.io/nvidia/cuda:12"),
        ("localhost:5000/x", "localhost:5000/x"),
    ],
)
def test_a_base_comes_from_the_mirror_of_docker_hub(ref: str, expected: str) -> None:
    assert base_ref(ref, Mirrors(registry="m.example/hub")) == expected
    assert base_ref(ref, Mirrors()) == ref


def test_the_secrets_of_a_build_carry_the_mirrors_and_nothing_else_does(
    environ: dict[str, str], tmp_path: Path
) -> None:
    named = ["github=https://me:hunter2@m.example", "pip=http://t0ken@i.example/simple"]
    found = network.collect(
        environ, tmp_path / "no-etc", load([*named, "apt=http://u:pw0@a.example"], environ)
    )
    assert found.passwords == {"hunter2", "t0ken", "pw0"}
    with network.secret_files(found) as files:
        assert set(files) == {"net", "git", "aptsed"}
        assert "hunter2" in files["git"].read_text()
        script = f'. {files["net"]}; printf "%s\\n" "$PIP_INDEX_URL" "$PIP_TRUSTED_HOST" "$M"'
        script = script.replace("$M", f"${mirrors.URL_MIRRORS}")
        shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        index, trusted, table = shown.stdout.splitlines()
    assert (index, trusted) == ("http://t0ken@i.example/simple", "i.example")
    assert json.loads(table) == {"https://github.com/": "https://me:hunter2@m.example/"}


def test_an_apt_mirror_replaces_the_hosts_own_sources(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "apt").mkdir()
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    (tmp_path / "apt" / "sources.list").write_text("deb http://h.example/debian bookworm main\n")
    assert network.collect(environ, tmp_path).apt_sources is not None
    named = load(["apt=http://a.example"], environ)
    assert network.collect(environ, tmp_path, named).apt_sources is None


def test_passwords_of_mirrors_are_masked_and_the_users_of_ssh_are_not(
    environ: dict[str, str], tmp_path: Path
) -> None:
    named = load(["github=ssh://git@m.example/", "pip=https://me:p%40ss@i.example/s"], environ)
    found = network.collect(environ, tmp_path / "no-etc", named)
    # Decoded too: some programs show it so.
    assert found.passwords == {"p%40ss", "p@ss"}
