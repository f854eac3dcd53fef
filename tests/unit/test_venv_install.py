"""Setup makes a whole environment or none, and does nothing where there is one.

The real venv and the real pip install tiny wheels from a directory: a package, and torch as PyPI
and as PyTorch's CPU index build it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.host import venv

TAG = f"cp3{sys.version_info[1]}"
MACHINE = os.uname().machine
PLATFORM = f"{TAG}-{TAG}-manylinux_2_28_{MACHINE}"
LOCKS = ("requirements.txt", "tvm.txt", "torch.txt", "torch-cuda.txt", "torch-cpu-hashes.txt")


def make_wheel(directory: Path, name: str, version: str, tags: str) -> str:
    """Write a wheel with one module, and give its sha256."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = directory / f"{name}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in files.items():
            wheel.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class World:
    """Locks, wheels and a place of a test's own; counts the commands that setup runs."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = directory / "venv"
        self.locks = directory / "locks"
        self.wheels = directory / "wheels"
        self.locks.mkdir()
        self.wheels.mkdir()
        small = make_wheel(self.wheels, "small", "1.0", "py3-none-any")
        plain = make_wheel(self.wheels, "torch", "9.9", PLATFORM)
        cpu = make_wheel(self.wheels, "torch", "9.9+cpu", PLATFORM)
        cuda = make_wheel(self.wheels, "triton", "3.0", "py3-none-any")
        self.lock("requirements.txt", f"small==1.0 --hash=sha256:{small}\n")
        self.lock("tvm.txt", f"small==1.0 --hash=sha256:{small}\n")
        self.lock("torch.txt", f"torch==9.9 --hash=sha256:{plain} --hash=sha256:{cpu}\n")
        self.lock("torch-cuda.txt", f"triton==3.0 --hash=sha256:{cuda}\n")
        self.lock("torch-cpu-hashes.txt", f"{TAG} {MACHINE} {cpu}\n")
        self.commands: list[str] = []
        run = venv.run

        def counted(argv: list[str], what: str) -> str:
            self.commands.append(what)
            return run(argv, what)

        monkeypatch.setattr(venv, "run", counted)
        monkeypatch.setattr(venv, "LOCKS", str(self.locks))
        monkeypatch.setattr(venv, "missing_packages", list)
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.wheels))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        # A machine's own constraints are for real packages: there is no torch 9.9.
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_USER", "1")  # must not lead the packages astray

    def lock(self, name: str, text: str) -> None:
        (self.locks / name).write_text(text, encoding="utf-8")

    def set_up(self, *arguments: str) -> int:
        self.commands.clear()
        return venv.main(["--venv", str(self.place), *arguments])

    def installed(self) -> dict[str, str]:
        """Name to version of what the environment's own pip sees, but for pip and setuptools."""
        pip = [str(self.place / "bin" / "python"), "-m", "pip", "list", "--format", "json"]
        env = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        done = subprocess.run(pip, capture_output=True, text=True, check=True, env=env)
        found = {entry["name"]: entry["version"] for entry in json.loads(done.stdout)}
        return {name: found[name] for name in found if name not in ("pip", "setuptools")}

    def is_complete(self) -> bool:
        return (self.place / venv.STAMP).exists()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def fake_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that succeed at once, and an environment that only looks like one."""

    def pretend(argv: list[str], what: str) -> str:
        world.commands.append(what)
        if "--clear" in argv:
            shutil.rmtree(world.place, ignore_errors=True)
            (world.place / "bin").mkdir(parents=True)
            (world.place / "pyvenv.cfg").touch()
            (world.place / "bin" / "python").symlink_to(sys.executable)
        return f":env:.find-links='{world.wheels}'" if "config" in argv else ""

    monkeypatch.setattr(venv, "run", pretend)


def test_the_cpu_build_is_installed_and_then_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.set_up() == 0
    assert world.installed() == {"small": "1.0", "torch": "9.9+cpu"}
    assert world.is_complete()
    out = capsys.readouterr().out
    assert f"CPU build from {world.wheels}" in out

    assert world.set_up() == 0
    assert world.commands == []
    assert capsys.readouterr() == ("", "")


def test_the_cuda_build_is_installed_where_asked_for(world: World) -> None:
    assert world.set_up("--torch", "cuda") == 0
    assert world.installed() == {"small": "1.0", "torch": "9.9", "triton": "3.0"}


def test_a_wrong_hash_ends_in_pips_words_and_a_hint(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.lock("requirements.txt", f"small==1.0 --hash=sha256:{'0' * 64}\n")
    assert world.set_up() == 2
    assert not world.is_complete()
    error, *lines, hint = capsys.readouterr().err.splitlines()
    assert error == "error: packages: exit code 1"
    assert any("DO NOT MATCH THE HASHES" in line for line in lines)
    assert hint.startswith("hint: what is offered is not what is locked")


def test_a_package_that_is_not_to_be_had_says_where_to_look(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.wheels / "small-1.0-py3-none-any.whl").unlink()
    assert world.set_up() == 2
    assert not world.is_complete()
    error = capsys.readouterr().err
    assert "No matching distribution found for small==1.0" in error
    assert "hint: check the network, the proxy" in error


@pytest.mark.parametrize("stop", ["packages", "torch 9.9 (cpu)", "virtual environment"])
def test_an_interrupted_setup_starts_afresh(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: str
) -> None:
    fake_install(world, monkeypatch)
    pretend = venv.run

    def interrupted(argv: list[str], what: str) -> str:
        pretend(argv, what)
        if what == stop:
            raise KeyboardInterrupt
        return pretend(argv, what)

    monkeypatch.setattr(venv, "run", interrupted)
    assert world.set_up() == 130
    assert capsys.readouterr().err.startswith("error: interrupted\n")
    assert not world.is_complete()
    assert world.set_up("--check") == 2

    monkeypatch.setattr(venv, "run", pretend)
    assert world.set_up() == 0
    assert world.commands[0] == "virtual environment"
    assert world.is_complete()


@pytest.mark.parametrize(
    "event",
    ["lock changed", "Python gone", "moved", "stamp damaged", "other build", "stamp of old"],
)
def test_what_no_longer_fits_is_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    fake_install(world, monkeypatch)
    assert world.set_up() == 0
    assert world.set_up("--check") == 0
    arguments: list[str] = []
    stamp = world.place / venv.STAMP
    if event == "lock changed":
        with (world.locks / "requirements.txt").open("a", encoding="utf-8") as file:
            file.write("# another\n")
    elif event == "Python gone":
        (world.place / "bin" / "python").unlink()
        (world.place / "bin" / "python").symlink_to("/nowhere/python3")
    elif event == "moved":
        world.place = world.place.rename(world.place.with_name("elsewhere"))
    elif event == "stamp damaged":
        stamp.write_text(stamp.read_text()[:20])
    elif event == "other build":
        arguments = ["--torch", "cuda"]
    else:
        stamp.write_text("[]")
    assert world.set_up("--check", *arguments) == 2
    assert world.commands == []
    assert world.set_up(*arguments) == 0
    assert world.commands[0] == "virtual environment"
    assert world.set_up("--check", *arguments) == 0


def test_a_cuda_lock_does_not_concern_a_cpu_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_install(world, monkeypatch)
    assert world.set_up() == 0
    world.lock("torch-cuda.txt", "triton==4.0\n")
    assert world.set_up("--check") == 0


def test_a_directory_that_is_no_environment_is_left_alone(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.place.mkdir()
    (world.place / "thesis.tex").write_text("years of work")
    assert world.set_up() == 2
    assert world.commands == []
    assert (world.place / "thesis.tex").read_text() == "years of work"
    assert "is not a virtual environment\nhint: move it away" in capsys.readouterr().err


def test_a_missing_lock_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.locks / "torch.txt").unlink()
    assert world.set_up() == 2
    assert "torch.txt" in capsys.readouterr().err
    assert not world.is_complete()


def test_a_place_that_cannot_be_written_is_no_traceback(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.place = Path("/proc/venv")
    assert world.set_up() == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith("error: ")
    assert error[-1].startswith("hint: ")


def test_make_tells_of_a_missing_python(tmp_path: Path) -> None:
    make = ["make", "--no-print-directory", "-C", venv.ROOT]
    done = subprocess.run(
        [*make, "setup", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: missing: no-such-python\nhint: apt-get install -y git make python3 python3-venv"
    )
    assert not (tmp_path / "venv").exists()


def test_make_alone_lists_every_target() -> None:
    done = subprocess.run(["make", "-C", venv.ROOT], capture_output=True, text=True, check=True)
    makefile = (Path(venv.ROOT) / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in makefile.splitlines() if line.startswith(".PHONY:")]
    assert {"setup", "bench", "check", "test", "lock", "engine"} <= set(targets)
    for target in targets:
        assert f"make {target} " in done.stdout, f"{target} has no help"


def test_locks_of_the_world_are_those_of_the_project() -> None:
    """The file names this test makes up are the ones that exist."""
    assert all((Path(venv.LOCKS) / name).is_file() for name in LOCKS)
