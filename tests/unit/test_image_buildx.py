"""One run of buildx, played by a docker program of a few lines."""

from __future__ import annotations

import os
import signal
import threading
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


def test_masked_words_are_shown_nowhere(tmp_path: Path) -> None:
    environ = fake_docker(tmp_path, 'echo "#1 [a] hunter2"; echo "#1 0.1 at hunter2"; exit 1')
    steps: list[str] = []
    with pytest.raises(JobFailed) as caught:
        buildx.run(["docker"], tmp_path, environ, steps.append, ["hunter2"])
    assert "hunter2" not in caught.value.message + "".join(steps)
    assert "****" in caught.value.message


def test_interrupt_stops_the_build_and_is_raised_again(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    body = (
        f"trap 'touch {stopped}; kill $pid; exit 1' INT\n"
        'sleep 60 & pid=$!\necho "#1 [a] started"\nwait'
    )
    environ = fake_docker(tmp_path, body)

    def interrupt(_: str) -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

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
