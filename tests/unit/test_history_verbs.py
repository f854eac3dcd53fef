"""The verbs over many runs as a user types them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import runs
from bench.host.history import query, verbs
from bench.host.history.query import Filters
from bench.record import JobSpec
from tests.conftest import ROOT
from tests.unit import samples
from tests.unit.histories import image, publish, record, rounds

BACKEND = "tvm-optimized"


def invoke(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verbs of bench.tasks.history alone."""
    folder = tmp_path / "verbs"
    folder.mkdir(exist_ok=True)
    (folder / "tasks.py").write_text("from bench.tasks.history import *\n")
    return subprocess.run(
        [sys.executable, "-m", "invoke", "--search-root", str(folder), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def many(out: Path) -> None:
    """One run of each kind of difference that a filter looks at."""
    where = samples.environment()
    publish(out, record("run-1-plain", {BACKEND: rounds(10.0), "tvm-none": rounds(100.0)}))
    publish(out, record("run-2-model", spec=JobSpec(model="gpt2-xl")))
    publish(out, record("run-3-backend", {"torch-eager": rounds(5.0)}, commit="2" * 40))
    publish(out, record("run-4-image", image=image("gpt-frontend:Latest-1", "b")))
    gpu = where.model_copy(update={"gpu": "NVIDIA H100"})
    publish(out, record("run-5-machine", where=gpu))
    publish(out, record("run-6-kind", spec=JobSpec(kind="compile")))


def found(out: Path, **given: str) -> list[str]:
    filters = query.filters(root=ROOT, **given)
    return [one.run for one in query.find(out, filters).entries]


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"model": "gpt2-xl"}, "2"),
        ({"model": "gpt2"}, "13456"),
        ({"model": "gpt2*"}, "123456"),
        ({"model": "gpt?"}, ""),
        ({"backend": "torch*"}, "3"),
        ({"backend": "tvm-none"}, "1"),
        ({"commit": "2222"}, "3"),
        ({"commit": "1" * 40}, "12456"),
        ({"image": "latest"}, "4"),
        ({"image": "bbbb"}, "4"),
        ({"image": "sha256:bb"}, "4"),
        ({"machine": "h100"}, "5"),
        ({"machine": "a cpu, 2 cores"}, "123456"),
        ({"kind": "compile"}, "6"),
        ({"model": "gpt2", "backend": "tvm*", "machine": "H100"}, "5"),
        ({"model": "' OR 1=1 --"}, ""),
        ({"machine": "%"}, ""),
    ],
)
def test_filters_let_pass_what_they_say(tmp_path: Path, given: dict[str, str], fits: str) -> None:
    many(tmp_path)
    assert "".join(name.split("-")[1] for name in found(tmp_path, **given)) == fits


def test_a_commit_may_be_any_name_that_git_knows(tmp_path: Path) -> None:
    head = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    publish(tmp_path, record("run-1", commit=head))
    publish(tmp_path, record("run-2"))
    assert found(tmp_path, commit="HEAD") == ["run-1"]
    for name in ("no-such-branch", "--all"):
        with pytest.raises(UsageFault, match="no commit"):
            found(tmp_path, commit=name)
    with pytest.raises(UsageFault, match="--model is empty"):
        found(tmp_path, model=" ")


def test_results_shows_the_newest_last_and_says_what_it_left_out(tmp_path: Path) -> None:
    many(tmp_path / "out")
    done = invoke(tmp_path, "results", "--out", "out", "--limit", "2")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "run", "run-5-machine", "run-6-kind",
    ]  # fmt: skip
    assert "the last 2 of 6 runs" in done.stderr
    refused = invoke(tmp_path, "results", "--out", "out", "--limit", "few")
    assert refused.returncode == 2 and "error: --limit 'few'" in refused.stderr


def test_results_of_a_backend_shows_its_median(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = record("run-1", {BACKEND: [10.0] * 3, "tvm-none": [20.0] * 3, "torch-eager": None})
    rows = [one.model_copy(update={"unstable": ["drift"]}) for one in made.results[:1]]
    publish(tmp_path, made.model_copy(update={"results": [*rows, *made.results[1:]]}))
    verbs.results(tmp_path, Filters(backend="t*"), limit=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[3:] for line in lines] == [
        ["1" * 10, BACKEND, "10.00?", "6400"],
        ["1" * 10, "tvm-none", "20.00", "3200"],
        ["1" * 10, "torch-eager", "-", "-"],
    ]


def test_results_says_what_there_is_where_nothing_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many(tmp_path)
    verbs.results(tmp_path, Filters(model="bert-base"), limit=None, as_json=False)
    said = capsys.readouterr().out
    assert "none of 6 runs is of model bert-base" in said and "gpt2, gpt2-xl" in said
    verbs.results(tmp_path / "absent", Filters(), limit=None, as_json=False)
    assert "invoke bench" in capsys.readouterr().out


def test_results_as_json_has_every_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, samples.record())
    verbs.results(tmp_path, Filters(), limit=None, as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)
    medians = {one["backend"]: one["median_ms"] for one in entry["measured"]}
    assert medians["tvm-none"] == 10_000.0 and len(medians) == 5


def test_a_debug_build_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"io.gpt-frontend.build.build_type": "Debug"}
    publish(tmp_path, record("run-1", image=image().model_copy(update={"labels": labels})))
    verbs.results(tmp_path, Filters(), limit=None, as_json=False)
    assert "local (Debug)" in capsys.readouterr().out


def test_a_damaged_record_is_named_and_hinders_only_who_asks_for_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    many(out)
    (out / "run-2-model" / runs.RECORD).write_text("{\x1b[2J")
    done = invoke(tmp_path, "results", "--out", "out")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 6
    assert "skipped: " in done.stderr and "run-2-model" in done.stderr
    assert "\x1b" not in done.stderr
    done = invoke(tmp_path, "export", "all", "--out", "out", "--to", "all.csv", "--kind", "bench")
    assert done.returncode == 0 and "run-2-model" in done.stderr
    with (tmp_path / "all.csv").open() as file:
        assert {line["run"] for line in csv.DictReader(file)} == {
            "run-1-plain", "run-3-backend", "run-4-image", "run-5-machine",
        }  # fmt: skip
    for verb in (("compare", "run-2", "run-1"), ("export", "run-2", "--to", "x.csv")):
        done = invoke(tmp_path, *verb, "--out", "out")
        assert done.returncode == 2 and "line 1" in done.stderr and "hint: " in done.stderr
    assert not list(tmp_path.glob("*x.csv*"))


def two(out: Path, slower: float) -> None:
    publish(out, record("run-base", {BACKEND: rounds(10.0, seed=1)}))
    publish(out, record("run-new", {BACKEND: rounds(10.0 * slower, seed=2)}))


@pytest.mark.parametrize(("slower", "code"), [(1.2, 1), (1.0, 0)])
def test_compare_exits_1_on_a_regression_after_it_has_shown_it(
    tmp_path: Path, slower: float, code: int
) -> None:
    two(tmp_path / "out", slower)
    asked = ("compare", "run-base", "run-new", "--out", "out", "--fail-if-slower", "5%")
    done = invoke(tmp_path, *asked, "--format", "markdown")
    assert done.returncode == code, done.stderr
    assert f"`{BACKEND}`" in done.stdout
    assert ("Check failed" in done.stdout) == (code == 1)
    assert ("error: slower than run-base" in done.stderr) == (code == 1)


def test_compare_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    many(tmp_path)
    nothing: dict[str, Any] = {"backends": [], "allow": [], "fail_if_slower": None, "form": "text"}
    for runs_named, options, said in (
        (("run-1", "run-2"), {}, "model: gpt2 and gpt2-xl"),
        (("run-1", "run-9"), {}, "no run 'run-9'"),
        (("run-1", "run-1"), {"fail_if_slower": "5"}, "no percentage"),
        (("run-1", "run-1"), {"form": "xml"}, "unknown format 'xml'"),
        (("run-1", "run-1"), {"allow": ["colour"]}, "colour"),
    ):
        with pytest.raises(UsageFault, match=said) as caught:
            verbs.compare(*runs_named, tmp_path, **{**nothing, **options})
        assert caught.value.hint


@pytest.mark.parametrize("form", ["text", "json"])
def test_compare_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    two(tmp_path, 1.2)
    nothing: dict[str, Any] = {"backends": [], "allow": [], "fail_if_slower": None}
    verbs.compare("run-base", "run-new", tmp_path, **nothing, form=form)
    said = capsys.readouterr().out
    assert "slower" in said
    if form == "json":
        assert json.loads(said)["rows"][0]["verdict"] == "slower"


def test_export_refuses_what_it_cannot_do_and_leaves_nothing(tmp_path: Path) -> None:
    many(tmp_path)
    for named, filters, form, to, said in (
        ("run-1", Filters(model="gpt2"), "csv", None, "filters go with"),
        (" , ", Filters(), "csv", None, "no run is named"),
        ("all", Filters(model="bert"), "csv", None, "no run"),
        ("run-1", Filters(), "csv", tmp_path / "no" / "a.csv", "cannot write to"),
        ("run-1", Filters(), None, tmp_path / "a.xls", "which format"),
        ("all", Filters(model="gpt2"), "pyperf", tmp_path / "a.json", "both measured"),
    ):
        with pytest.raises(UsageFault, match=said):
            verbs.export(named, tmp_path, filters, form=form, to=to)
    assert not [path for path in tmp_path.iterdir() if ".json" in path.name or ".xls" in path.name]


def test_export_writes_several_runs_to_standard_output(tmp_path: Path) -> None:
    many(tmp_path / "out")
    done = invoke(tmp_path, "export", "run-1,run-3", "--format", "markdown", "--out", "out")
    assert done.returncode == 0
    assert [line.split("|")[4].strip() for line in done.stdout.splitlines()[2:]] == [
        f"`{BACKEND}`", "`tvm-none`", "`torch-eager`",
    ]  # fmt: skip


def test_bisect_refuses_bad_input_before_it_measures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for good, least, said in (
        ("no-such", "1%", "git knows no commit 'no-such'"),
        ("HEAD", "1%", "does not come before"),
        ("HEAD", "1", "no percentage"),
    ):
        with pytest.raises(UsageFault, match=said):
            verbs.bisect(good, "HEAD", out, backend=BACKEND, arguments=[], allow=[], least=least)
    done = invoke(tmp_path, "bisect", "--good", "a", "--bad", "b", "--bench", "'", "--out", "out")
    assert done.returncode == 2 and "error: --bench '" in done.stderr
    assert not out.exists()


def test_help_teaches_every_option(tmp_path: Path) -> None:
    for verb in ("results", "compare", "export", "bisect"):
        done = invoke(tmp_path, "--help", verb)
        _, _, shown = done.stdout.partition("Options:")
        assert done.returncode == 0 and "--out" in shown
        assert "none" not in [line.strip() for line in shown.splitlines()]
