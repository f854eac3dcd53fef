"""The verbs as a user types them: `error:` and `hint:`, the exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import JobFailed
from bench.host import report, runs, verbs
from bench.host.engine import endpoint, local
from bench.record import JobSpec
from tests.conftest import ROOT
from tests.unit.samples import record

NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
# Goes on until it is asked to end, and tells then whether the entry that it uses is still there.
JOB_OF_A_KILLED_HOST = """
import pathlib, signal, sys
entry, found = map(pathlib.Path, sys.argv[1:])
def end(*_):
    found.write_text("its entry" if entry.is_dir() else "nothing")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    signal.pause()
"""


def invoke(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=ROOT,
        env={**os.environ, **NO_ENGINE, **environ},
        capture_output=True,
        text=True,
    )


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The error line of a run that ended as a user should see it end."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-2].startswith("error: ") and lines[-1].startswith("hint: "), done.stderr
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "gpt5"], "unknown model 'gpt5'"),
        (["--backends", "mxnet"], "unknown backend 'mxnet'"),
        (["--profile", "fpga"], "fpga"),
        (["--engine", "podman"], "unknown engine 'podman'"),
        (["--seq-len", "1025"], "over the block size"),
        (["--batch-size", "0"], "--batch-size '0'"),
        (["--timeout", "soon"], "--timeout 'soon'"),
        (["--engine", "docker"], "no Docker engine answers"),
        (["--gpu"], "no Docker engine answers"),
        (["--gpu", "--engine", "auto"], "no Docker engine answers"),
        (["--gpu", "--profile", "cpu"], "profile 'cpu' has no CUDA"),
    ],
)
def test_bad_input_to_bench_exits_2_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    out = tmp_path / "results"
    assert said in refused(invoke("bench", *arguments, "--out", str(out)))
    assert not out.exists()


def test_gpu_never_falls_back_to_a_cpu(tmp_path: Path) -> None:
    """A PATH without nvidia-smi: whatever this machine has, this host shows no GPU."""
    empty = tmp_path / "bin"
    empty.mkdir()
    out = str(tmp_path / "out")
    done = invoke("bench", "--gpu", "--engine", "local", "--out", out, PATH=str(empty))
    if Path("/usr/lib/wsl/lib/nvidia-smi").exists():
        pytest.skip("WSL2 finds its driver without PATH")
    assert "no GPU" in refused(done)
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_exits_2(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert "cannot write to" in refused(invoke("bench", "--engine", "local", "--out", str(file)))
    assert file.read_text() == "mine"


def test_compile_refuses_backends_that_keep_nothing(tmp_path: Path) -> None:
    done = invoke(
        "compile", "--engine", "local", "--model", "gpt-nano", "--backends", "torch-eager",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert "keeps no artefact" in refused(done)
    assert not (tmp_path / "out").exists()


def test_an_unknown_cuda_arch_exits_2(tmp_path: Path) -> None:
    done = invoke(
        "compile", "--engine", "local", "--model", "gpt-nano", "--cuda-arch", "sm_99",
        "--backends", "tvm-none", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert "sm_99" in refused(done)


def published(out: Path) -> Path:
    directory = runs.create(out, JobSpec())
    whole = record(directory.run_id)
    return directory.publish(whole, report.markdown(whole))


def test_results_and_show_print_what_was_published(tmp_path: Path) -> None:
    path = published(tmp_path)
    listed = invoke("results", "--out", str(tmp_path))
    assert listed.returncode == 0
    assert path.name in listed.stdout.replace("\n", "") and "50.0x" in listed.stdout
    shown = invoke("show", path.name, "--out", str(tmp_path))
    assert shown.returncode == 0
    assert "50.00x" in shown.stdout and "before 10000.0 ms, after 200.0 ms" in shown.stdout


def test_a_damaged_record_is_named_and_skipped_by_results(tmp_path: Path) -> None:
    good, bad = published(tmp_path), published(tmp_path)
    (bad / "record.json").write_text('{\n  "schema_version": 1,\n')
    done = invoke("results", "--out", str(tmp_path))
    assert done.returncode == 0
    assert good.name in done.stdout.replace("\n", "")
    assert bad.name in done.stderr and "line 3" in done.stderr
    assert "line 3" in refused(invoke("show", bad.name, "--out", str(tmp_path)))


def test_show_without_runs_exits_2(tmp_path: Path) -> None:
    refused(invoke("show", "last", "--out", str(tmp_path / "absent")))


def test_results_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    done = invoke("results", "--out", str(tmp_path))
    assert done.returncode == 0 and "invoke bench" in done.stdout


def test_build_image_without_an_engine_exits_2() -> None:
    assert "no Docker engine answers" in refused(invoke("build-image"))


def test_shell_without_a_terminal_exits_2() -> None:
    assert "terminal" in refused(invoke("shell"))


def test_doctor_gives_json_with_a_remedy_for_what_is_missing() -> None:
    done = invoke("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert findings["engine"]["level"] == "note"
    assert "DOCKER_HOST" in findings["engine"]["remedy"]
    blocked = any(finding["level"] == "blocks" for finding in findings.values())
    assert done.returncode == (1 if blocked else 0)


def test_clean_removes_artefacts_and_abandoned_runs_but_no_results(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    kept = published(tmp_path)
    abandoned = runs.create(tmp_path, JobSpec()).path
    (abandoned / "owner").write_text("4194305:1")
    training = runs.create(tmp_path, JobSpec()).path
    (training / "owner").write_text("4194305:1")
    (training / "checkpoint").mkdir()
    entry = store / "lib" / ("a" * 64)
    entry.mkdir(parents=True)
    (entry / "lib.so").write_bytes(b"x")
    done = invoke("clean", "--out", str(tmp_path), GPT_FRONTEND_STORE=str(store))
    assert done.returncode == 0
    assert kept.exists() and not abandoned.exists() and not entry.exists()
    assert training.exists() and f"--resume {training}" in done.stdout


def test_clean_ends_the_job_of_a_killed_host_before_it_removes_anything(tmp_path: Path) -> None:
    store = tmp_path / "store"
    entry = store / "lib" / ("a" * 64)
    entry.mkdir(parents=True)
    job = subprocess.Popen(
        [sys.executable, "-c", JOB_OF_A_KILLED_HOST, str(entry), str(tmp_path / "found")],
        env={**os.environ, local.OWNER_VARIABLE: "4194305:1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert job.stdout is not None and job.stdout.readline() == b"ready\n"
        done = invoke("clean", "--out", str(tmp_path), GPT_FRONTEND_STORE=str(store))
        assert (done.returncode, job.wait(60)) == (0, 0), done.stderr
    finally:
        job.kill()
        job.wait()
    assert f"ended: process {job.pid}, of a job whose host was killed" in done.stdout
    assert (tmp_path / "found").read_text() == "its entry" and not entry.exists()


def test_clean_leaves_what_a_job_may_use_that_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    entry = store / "lib" / ("a" * 64)
    entry.mkdir(parents=True)
    abandoned = runs.create(tmp_path, JobSpec()).path
    (abandoned / "owner").write_text("4194305:1")
    asked: list[bool] = []

    def goes_on() -> list[int]:
        raise JobFailed("a job of a killed run goes on", hint="wait for it to end")

    monkeypatch.setattr(local, "end_abandoned", goes_on)
    monkeypatch.setenv("GPT_FRONTEND_STORE", str(store))
    monkeypatch.setattr(endpoint, "connect", lambda *_: object())
    monkeypatch.setattr(endpoint, "find_endpoint", lambda *_: object())
    monkeypatch.setattr(verbs, "_clean_engine", lambda client, images: asked.append(images))
    with pytest.raises(JobFailed, match="goes on"):
        verbs.clean(tmp_path, images=True)
    assert entry.exists() and abandoned.exists() and asked == [True]


def test_debug_shows_the_traceback() -> None:
    done = invoke("--debug", "bench", "--model", "gpt5")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_a_python_that_was_not_set_up_says_make_setup() -> None:
    code = "import sys, runpy; sys.prefix = '/nonexistent'; runpy.run_path('tasks.py')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "hint: make setup"


def test_help_teaches_every_option() -> None:
    listed = invoke("--list", "--list-format", "json")
    verbs = {task["name"]: task["help"] for task in json.loads(listed.stdout)["tasks"]}
    assert {"bench", "compile", "build-image", "results", "show", "doctor", "clean"} <= set(verbs)
    for verb, summary in verbs.items():
        done = invoke("--help", verb)
        assert done.returncode == 0, verb
        _, _, options = done.stdout.partition("Options:")
        # An option begins two columns in; its text follows, there or on lines further in.
        shown = re.split(r"\n  (?=-)", options)[1:]
        assert shown and summary and summary in " ".join(done.stdout.split()), verb
        for option in shown:
            flag, *text = option.split()
            assert flag.startswith("--") and len(text) >= 2, f"{verb} {flag} is not explained"


def test_what_an_error_quotes_is_shown_inert(tmp_path: Path) -> None:
    done = invoke("show", "\x1b[31mred", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "\x1b" not in done.stderr and "[31mred" in done.stderr
