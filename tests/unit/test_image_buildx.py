"""One run of buildx, played by a docker program of a few lines."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import buildx


def fake_docker(folder: Path, body: str) -> dict[str, str]:
    """A docker program of our own, first in the search path."""
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("#7 1.2 write /x: no space left on device", "docker system prune"),
        ("#7 1.2 SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')", "REQUESTS_CA_BUNDLE"),
        ("#7 1.2 Temporary failure resolving 'mirror.example'", "https_proxy"),
        ("#7 1.2 THESE PACKAGES DO NOT MATCH THE HASHES", "PIP_FIND_LINKS"),
    ],
)
def test_failed_build_shows_its_end_and_a_hint(tmp_path: Path, line: str, hint: str) -> None:
    environ = fake_docker(tmp_path, f'echo "#7 [image 2/6] RUN x"; echo "{line}" >&2; exit 17')
    steps: list[str] = []
    with pytest.raises(JobFailed) as caught:
        buildx.run(["docker"], tmp_path, environ, steps.append)
    assert caught.value.exit_code == 1
    assert "exit code 17" in caught.value.message
    assert line.removeprefix("#7 1.2 ") in caught.value.message
    assert hint in str(caught.value.hint)
    assert steps == ["[image 2/6] RUN x"]


def test_what_a_step_says_of_itself_counts_for_more_than_a_guess(tmp_path: Path) -> None:
    lines = ["#7 1.0 Could not resolve host", "#7 1.2 error: 3rdparty/a is missing"]
    lines += ["#7 1.2 hint: git submodule update --init 3rdparty/a", "#7 ERROR: exit code: 1"]
    environ = fake_docker(tmp_path, "; ".join(f"echo '{line}'" for line in lines) + "; exit 1")
    with pytest.raises(JobFailed) as caught:
        buildx.run(["docker"], tmp_path, environ, lambda _: None)
    assert caught.value.message.startswith("the image was not built: 3rdparty/a is missing")
    assert caught.value.hint == "git submodule update --init 3rdparty/a"


def test_a_failure_outside_of_a_step_is_shown(tmp_path: Path) -> None:
    body = "echo '#7 1.0 all went well'; echo 'ERROR: failed to solve: ref vanished'; exit 1"
    with pytest.raises(JobFailed, match="ref vanished"):
        buildx.run(["docker"], tmp_path, fake_docker(tmp_path, body), lambda _: None)


def test_masked_words_are_shown_nowhere(tmp_path: Path) -> None:
    environ = fake_docker(tmp_path, 'echo "#1 [a] hunter2"; echo "#1 0.1 at hunter2"; exit 1')
    steps: list[str] = []
    with pytest.raises(JobFailed) as caught:
        buildx.run(["docker"], tmp_path, environ, steps.append, ["hunter2"])
    assert "hunter2" not in caught.value.message + "".join(steps)
    assert "****" in caught.value.message


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler of SIGINT, as a fresh ``invoke`` has it.

    A run started in the background has the signal ignored, and a library that another test loaded
    may have put a handler of its own before it, one after which a read goes on (SA_RESTART).
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before is not None:  # None: not Python's, and not for Python to put back
        signal.signal(signal.SIGINT, before)


def test_interrupt_stops_the_build_and_is_raised_again(tmp_path: Path, ctrl_c: None) -> None:
    stopped = tmp_path / "stopped"
    body = (
        f"trap 'touch {stopped}; kill $pid; exit 1' INT\n"
        'sleep 60 & pid=$!\necho "#1 [a] started"\nwait'
    )
    environ = fake_docker(tmp_path, body)

    # To this thread by name: a signal to the process may reach any of the threads that libraries
    # loaded by other tests have left, and then nothing wakes the one that reads the build's log.
    reader = threading.get_ident()

    def interrupt(_: str) -> None:
        threading.Timer(0.1, signal.pthread_kill, (reader, signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        buildx.run(["docker"], tmp_path, environ, interrupt)
    assert stopped.exists()


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            "#9 [image 3/6] RUN --mount=type=secret,id=ca <<'SHELL' (# Python packages...)",
            "[image 3/6] Python packages",
        ),
        (
            "#9 [project 2/4] COPY bench/*.py /project/bench/",
            "[project 2/4] COPY bench/*.py /project/bench/",
        ),
        ("#12 exporting to image", "exporting to image"),
        ("#12 exporting layers 38.5s done", None),
        ("#9 12.3 Get:1 http://mirror.example", None),
        ("#9 61.2 [38/600] Building CXX object x.dir/a.cc.o", "compile TVM: 38 of 600"),
        ("#9 DONE 3.2s", None),
        ("#9 CACHED", None),
    ],
)
def test_step_names(line: str, step: str | None) -> None:
    assert buildx.step_name(line) == step


def test_missing_buildx_and_missing_docker_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="no buildx") as caught:
        buildx.check(fake_docker(tmp_path, "exit 1"))
    assert "docker-buildx" in str(caught.value.hint)
    with pytest.raises(UsageFault, match="docker program is missing"):
        buildx.check({"PATH": str(tmp_path / "empty")})
