"""A place to work in, without an engine: what is lent, kept, and made of devcontainer.json."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import pins
from bench.host.mirrors import Mirrors
from bench.host.workplace import choice, container, image, inside, lent, person, volumes
from bench.host.workplace.choice import Choice
from bench.host.workplace.verbs import DESCRIPTION
from tests.conftest import ROOT

PERSON = person.Person(1000, 100, (1000, 100), {"HOME": "/home/me"})


def described(environ: Mapping[str, str]) -> container.Description:
    return container.load(ROOT / DESCRIPTION, Path("/own/checkout"), environ)


# --- devcontainer.json ---


def test_no_version_is_in_the_description() -> None:
    text = (ROOT / DESCRIPTION).read_text(encoding="utf-8")
    assert re.findall(r"\d+\.\d+", text) == []


def test_a_shell_is_made_of_the_description() -> None:
    argv = described({"USER": "ada"}).command(["bash"], terminal=True, gpu=True)
    line = " ".join(argv)
    assert line.startswith("docker run --rm --user dev -it --init --userns=host")
    assert "--cap-add SYS_PTRACE" in line and "--gpus all" in line
    assert "--mount type=bind,source=/own/checkout,target=/workspace" in line
    assert "source=gpt-frontend-ccache-ada,target=/ccache" in line
    assert "--env SSH_AUTH_SOCK=/run/gpt-frontend/agent" in line
    assert argv[argv.index("--workdir") + 1 :][:2] == ["/workspace", image.CURRENT]
    first = json.loads(container.COMMENT.sub("", (ROOT / DESCRIPTION).read_text()))
    assert argv[-5:] == ["sh", "-c", f'{first["postCreateCommand"]} && exec "$@"', "sh", "bash"]
    plain = described({}).command(["bash"], terminal=False, gpu=False)
    assert "-it" not in plain and "--gpus" not in plain
    assert "source=gpt-frontend-ccache-me" in " ".join(plain)


def test_the_volume_of_tvms_tree_is_found_by_its_place() -> None:
    assert described({"USER": "ada"}).volume_at("/src/tvm") == "gpt-frontend-tvm-ada"
    with pytest.raises(UsageFault, match="mounts no volume at /workspace"):
        described({}).volume_at("/workspace")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"features": {}}, "does not know what features"),
        ({"image": None}, "does not say image"),
        ({"runArgs": ["${localWorkspace}"]}, "unknown variable"),
    ],
)
def test_what_a_shell_could_not_do_alike_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    values = json.loads(container.COMMENT.sub("", (ROOT / DESCRIPTION).read_text()))
    values = {key: value for key, value in {**values, **change}.items() if value is not None}
    path = tmp_path / "devcontainer.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageFault, match=told) as caught:
        container.load(path, tmp_path, {})
    assert caught.value.hint


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_damaged_description_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "devcontainer.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageFault, match=r"cannot read .*devcontainer\.json"):
        container.load(path, tmp_path, {})


def test_what_the_editor_starts_is_there() -> None:
    launch = json.loads(container.COMMENT.sub("", (ROOT / ".vscode/launch.json").read_text()))
    known = {one["name"]: one for one in launch["configurations"]}
    for compound in launch["compounds"]:
        assert set(compound["configurations"]) <= set(known)
    modules = [one["module"] for one in known.values() if "module" in one]
    assert modules
    for module in modules:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    programs = {one["program"] for one in known.values() if "program" in one}
    values = json.loads(container.COMMENT.sub("", (ROOT / DESCRIPTION).read_text()))
    settings = values["customizations"]["vscode"]["settings"]
    assert programs == {settings["python.defaultInterpreterPath"]}


# --- who ---


@pytest.mark.parametrize(
    ("options", "sudo", "wanted"),
    [
        ([], {}, (0, 0, (0, 0))),
        ([], {"SUDO_UID": "4321", "SUDO_GID": "43"}, (4321, 43, (4321, 43))),
        (["name=rootless"], {}, (0, 0, (0, 0))),
        (["name=seccomp,profile=default", "name=userns"], {}, (0, 0, (0, 0))),
    ],
)
def test_work_is_done_as_the_caller(
    options: list[str],
    sudo: dict[str, str],
    wanted: tuple[int, int, tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "getgid", lambda: 0)
    found = person.of_caller(options, {"HOME": "/root", "USER": "root", **sudo})
    assert (found.uid, found.gid, found.owner) == wanted
    if sudo:
        assert found.environ["USER"] == "4321" and found.environ["HOME"] != "/root"


# --- what the host lends ---


def lay_out(tmp_path: Path, gitconfig: str, **environ: str) -> tuple[Path, list[str]]:
    home, folder, root = (tmp_path / name for name in ("home", "host", "checkout"))
    for one in (home / ".ssh", folder, root):
        one.mkdir(parents=True)
    (home / ".gitconfig").write_text(gitconfig)
    (home / ".ssh" / "known_hosts").write_text("forge.example ssh-ed25519 AAAA\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    told = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", **environ}
    return folder, lent.lay_out(folder, root, told)


def test_an_identity_goes_along_and_what_only_the_host_has_does_not(tmp_path: Path) -> None:
    folder, notes = lay_out(
        tmp_path,
        '[user]\n\tname = Ada \\"A\\" Dev\n\temail = ada@example.org\n\tsigningkey = /home/k\n'
        "[credential]\n\thelper = /host/only\n[commit]\n\tgpgsign = true\n\tverbose = true\n"
        "[alias]\n\tst = status\n[core]\n\teditor = emacs\n\thooksPath = /host/hooks\n"
        '[url "git@forge.example:"]\n\tinsteadOf = https://forge.example/\n'
        '[url "https://token@forge.example/"]\n\tinsteadOf = forge:\n'
        '[includeIf "gitdir:**/checkout/"]\n\tpath = more\n',
    )
    argv = ["git", "config", "--file", str(folder / "gitconfig"), "--null", "--list"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = dict(entry.split("\n", 1) for entry in told.split("\0") if entry)
    assert found == {
        "user.name": 'Ada "A" Dev',
        "user.email": "ada@example.org",
        "commit.verbose": "true",
        "alias.st": "status",
        "url.git@forge.example:.insteadof": "https://forge.example/",
        "safe.directory": "*",
    }
    hosts = (folder / "known_hosts").read_text()
    assert "forge.example ssh-ed25519" in hosts and "github.com ssh-ed25519" in hosts
    # No agent: something is there all the same, or nothing could be mounted.
    assert os.readlink(folder / "agent") == lent.NO_AGENT
    assert [note for note in notes if "ssh-add" in note] == notes != []


def test_an_identity_of_this_checkout_alone_goes_along_too(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "work").write_text("[user]\n\temail = work@example.org\n")
    folder = tmp_path / "host"
    folder.mkdir()
    root = tmp_path / "checkout"
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (tmp_path / "home" / ".gitconfig").write_text(
        '[user]\n\temail = me@example.org\n[includeIf "gitdir:**/checkout/"]\n\tpath = work\n'
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    notes = lent.lay_out(folder, root, environ)
    told = subprocess.run(
        ["git", "config", "--file", str(folder / "gitconfig"), "user.email"],
        capture_output=True,
        text=True,
    )
    assert told.stdout == "work@example.org\n"
    assert any("user.name" in note for note in notes)
    assert not any("user.email" in note for note in notes)


def test_the_agents_socket_is_linked_to_and_laying_out_again_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        folder, notes = lay_out(
            tmp_path, "[user]\n\tname=A\n\temail=a@b\n", SSH_AUTH_SOCK=str(path)
        )
        assert notes == [] and os.readlink(folder / "agent") == str(path)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    lent.lay_out(folder, tmp_path / "checkout", environ)
    assert os.readlink(folder / "agent") == lent.NO_AGENT
    assert sorted(one.name for one in folder.iterdir()) == ["agent", "gitconfig", "known_hosts"]


def test_a_damaged_gitconfig_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="git cannot read its configuration"):
        lay_out(tmp_path, "[user\n")


# --- what was asked for ---


def test_a_choice_is_kept_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert choice.load(tmp_path) == Choice()
    asked = Choice(profile="cpu-source", build_type="Debug", private_repo="git@forge:me/x.git")
    choice.keep(asked, tmp_path)
    assert choice.load(tmp_path) == asked
    assert [one.name for one in tmp_path.iterdir()] == [choice.FILE]
    for text in ("{", '{"profil": "cpu"}'):
        (tmp_path / choice.FILE).write_text(text)
        with pytest.raises(UsageFault, match="cannot read"):
            choice.load(tmp_path)


def test_where_nothing_was_said_the_profile_of_jobs_is_worked_on() -> None:
    loaded = pins.load()
    assert Choice().request(loaded, Mirrors()).profile == loaded.defaults.profile
    # It is cloned inside, where one can push from; the image has no copy of it.
    asked = Choice(profile="llvm10", private_repo="git@forge:me/x.git")
    assert asked.request(loaded, Mirrors(), jobs=3).private_repo is None


def test_another_commit_of_tvm_is_worked_on_where_it_is_named() -> None:
    asked = Choice(profile="cpu-source", build_type="Debug", tvm_ref="v0.23.0")
    made = asked.request(pins.load(), Mirrors())
    assert (made.tvm_ref, made.build_type) == ("v0.23.0", "Debug")


def test_the_build_takes_from_the_jobs_what_both_have_in_common() -> None:
    job = ["docker", "buildx", "build", "--load", "--tag", "job:1", "--label", "a=b"]
    job += ["--build-arg", "BASE=x", "--build-context", "wheelhouse=/w", "--no-cache", "."]
    argv = image.command(job, "dev:1", {"c": "d"}, PERSON)
    assert argv[-9:] == (
        *("--build-arg", "BASE=x", "--build-context", "wheelhouse=/w"),
        *("--build-arg", "DEV_UID=1000", "--build-arg", "DEV_GID=100"),
        ".",
    )
    assert argv[argv.index("--target") + 1] == "dev"
    assert "job:1" not in argv and "a=b" not in argv and "--no-cache" not in argv


def test_another_user_or_job_is_another_image() -> None:
    other = person.Person(1001, 100, (1001, 100), {})
    found = {image.content(job, who, ROOT) for job in ("a", "b") for who in (PERSON, other)}
    assert len(found) == 4


# --- the volume of TVM's tree ---


class Volumes:
    """An engine's volumes, as far as they are used here."""

    def __init__(self, **trees: str) -> None:
        self.trees = trees
        self.removed: list[str] = []

    def get(self, name: str) -> Any:
        from docker.errors import NotFound

        if name not in self.trees:
            raise NotFound("no such volume")
        labels = {image.TREE_LABEL: self.trees[name]}

        def remove() -> None:
            self.removed.append(name)
            del self.trees[name]

        return SimpleNamespace(attrs={"Labels": labels}, remove=remove)

    def create(self, name: str, labels: dict[str, str]) -> None:
        self.trees[name] = labels[image.TREE_LABEL]


def test_a_tree_that_somebody_works_on_is_never_replaced() -> None:
    engine = Volumes()
    client = cast(Any, SimpleNamespace(volumes=engine))
    volumes.lay_out(client, "tvm", "")
    assert engine.trees == {"tvm": ""}
    volumes.lay_out(client, "tvm", "a" * 40)  # nothing was in it
    assert (engine.trees, engine.removed) == ({"tvm": "a" * 40}, ["tvm"])
    volumes.lay_out(client, "tvm", "a" * 40)
    for tree in ("b" * 40, ""):
        with pytest.raises(UsageFault, match="holds TVM at aaaaaaaaaaaa") as caught:
            volumes.lay_out(client, "tvm", tree)
        assert "docker volume rm tvm" in str(caught.value.hint)
    assert engine.removed == ["tvm"]


# --- inside ---


def test_without_a_private_repository_nothing_is_done_inside(tmp_path: Path) -> None:
    assert inside.prepare(Choice(), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_clone_that_fails_leaves_nothing_that_passes_for_one(tmp_path: Path) -> None:
    asked = Choice(private_repo=str(tmp_path / "absent.git"))
    with pytest.raises(JobFailed, match="was not cloned") as caught:
        inside.prepare(asked, tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "absent").exists()


def test_what_is_cloned_already_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / ".git").mkdir(parents=True)
    ran: list[list[str]] = []
    monkeypatch.setattr(inside, "_run", lambda argv, failed: ran.append(argv))
    asked = Choice(private_repo="git@forge.example:team/mine.git", private_ref="v1")
    assert inside.prepare(asked, tmp_path) == [f"{tmp_path}/mine is installed editable"]
    assert len(ran) == 1 and ran[0][-2:] == ["--editable", str(tmp_path / "mine")]


def test_a_container_can_be_entered_whatever_fails_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inside, "LENT", tmp_path)
    monkeypatch.setattr(inside, "SOURCES", tmp_path)
    (tmp_path / choice.FILE).write_text("{")
    assert inside.main() == 0
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "\nhint: " in said


def test_a_traced_program_is_run_as_if_by_itself(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, beside\nprint(__name__, sys.argv[1:], beside.VALUE)\nsys.exit(3)"
    )
    traced = [sys.executable, "-m", "bench.host.workplace.traced"]
    done = subprocess.run([*traced, str(program), "a"], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("__main__ ['a'] 7\n", 3)
    module = subprocess.run([*traced, "-m", "calendar", "-h"], cwd=ROOT, capture_output=True)
    assert module.returncode == 0 and b"usage: calendar" in module.stdout
    assert subprocess.run(traced, cwd=ROOT, capture_output=True).returncode == 2
