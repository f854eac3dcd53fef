"""One run of `docker buildx build`: its steps told as they go, its end turned into our errors.

By subprocess, since the SDK's own build knows neither secrets nor build contexts
(docker/docker-py#2230).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bench.errors import JobFailed, UsageFault

STOP_TIMEOUT_S = 15
VERSION_TIMEOUT_S = 30
KEPT_LINES = 400
SHOWN_LINES = 20

# The first that matches the end of the log tells what to do.
CAUSES = (
    (
        r"Permission denied \(publickey",
        "no key of your agent is accepted there: ssh-add KEY, `ssh-add -l` lists; --ssh default",
    ),
    (
        r"Host key verification failed",
        "the host shows another key than the one it is known under: docs/sources.md",
    ),
    (
        r"[Nn]o space left on device|ENOSPC",
        "free some space: docker system df; docker system prune",
    ),
    (
        r"CERTIFICATE_VERIFY|certificate verif|x509|SSLError",
        "name your company's CA bundle: export REQUESTS_CA_BUNDLE=FILE",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "a package differs from docker/locks: check PIP_FIND_LINKS and the package index",
    ),
    (
        r"[Tt]emporary failure|[Cc]ould not resolve|[Nn]ame or service not known|NewConnection"
        r"|[Nn]etwork is unreachable|Connection (refused|reset|timed out)|timed out|ProxyError",
        "check the network from a container, and the proxy: export https_proxy=URL",
    ),
    (
        r"No matching distribution",
        "a package has no wheel for this base's Python, or the index cannot be reached; "
        "--wheelhouse DIR offers a folder of wheels",
    ),
)

OnStep = Callable[[str], None]


def check(environ: Mapping[str, str]) -> None:
    """Raise UsageFault where there is no docker program, or it has no buildx."""
    hint = "sudo make engine; or: sudo apt-get install -y docker-buildx"
    if shutil.which("docker", path=environ.get("PATH")) is None:
        raise UsageFault("the docker program is missing", hint="sudo make engine, or install it")
    done = subprocess.run(
        ["docker", "buildx", "version"],
        env=dict(environ),
        capture_output=True,
        timeout=VERSION_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise UsageFault("the docker program has no buildx", hint=hint)


def run(
    argv: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    on_step: OnStep,
    masked: Iterable[str] = (),
) -> None:
    """Run a build to its end. Words in ``masked`` appear in nothing that is shown.

    Raises:
        JobFailed: the build failed; carries the log's last lines and a hint.
        KeyboardInterrupt: it was interrupted; the build has been stopped.
    """
    # In a session of its own: Ctrl-C reaches this process alone, which then stops it, once.
    process = subprocess.Popen(
        list(argv),
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    log: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        assert process.stdout is not None  # PIPE
        for line in process.stdout:
            clean = mask(line.rstrip("\n"), masked)
            log.append(clean)
            if step := step_name(clean):
                on_step(step)
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    if code != 0:
        raise failure(code, list(log))


def stop(process: subprocess.Popen[str]) -> None:
    """End a build and wait until it has ended: buildx cancels it in the engine on SIGINT."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
    process.wait()


def step_name(line: str) -> str | None:
    """What a line of buildx's plain progress begins; None for all other lines.

    ``#7 [image 3/6] RUN … <<'SHELL' (# Python packages...)`` is a step, ``#7 12.3 text`` its
    output. buildx shows the first line of a script, which docker/Dockerfile makes a comment.
    """
    # The longest step tells how far it is: ninja counts what it compiles.
    if count := re.match(r"#\d+ [\d.]+ \[(\d+)/(\d+)\] (?:Building|Linking) ", line):
        return f"compile TVM: {count[1]} of {count[2]}"
    found = re.match(r"#\d+ (?:(\[[^\]]+\] .+)|((?:exporting|unpacking) to \S+))$", line)
    if found is None:
        return None
    name = found[1] or found[2]
    return re.sub(r"RUN .*\(# (.+?)(\.\.\.)?\)$", r"\1", name)


def mask(line: str, words: Iterable[str]) -> str:
    """A line without the words that nobody should see."""
    for word in words:
        line = line.replace(word, "****")
    return line


def failure(code: int, log: list[str]) -> JobFailed:
    """The error for a build that ended with an exit code, from its log."""
    # buildx repeats the Dockerfile and the command at the end; the failed step's output comes
    # before, each line with the step's number and time.
    output = [
        found[1] for line in log if (found := re.match(r"#\d+ (?:[\d.]+ |ERROR: )(.*)", line))
    ]
    # What fails outside of a step, such as writing the image, is told by the last line alone.
    final = [line for line in log if line.startswith("ERROR: ") and "did not complete" not in line]
    shown = [*(output or log)[-SHOWN_LINES:], *final[-1:]]
    text = "\n".join(log)
    lines = "".join(f"\n  | {line[:200]}" for line in shown)
    # A step of bench/build knows better than a guess from the log what is wrong.
    if said := own_words(output):
        return JobFailed(f"the image was not built: {said[0]}{lines}", hint=said[1])
    hint = next((remedy for cause, remedy in CAUSES if re.search(cause, text)), None)
    return JobFailed(
        f"the image was not built: docker buildx build, exit code {code}{lines}",
        hint=hint or "the lines above are the end of the build's log",
    )


def own_words(output: Sequence[str]) -> tuple[str, str] | None:
    """(error, hint) as a step of bench/build printed them last; None where none did."""
    for number in range(len(output) - 1, 0, -1):
        if output[number].startswith("hint: "):
            before = [line for line in output[:number] if line.startswith("error: ")]
            if before:
                return before[-1].removeprefix("error: "), output[number].removeprefix("hint: ")
    return None
