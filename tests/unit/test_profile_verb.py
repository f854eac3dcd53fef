"""``invoke profile``: what it profiles, what it prints, what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.errors import UsageFault
from bench.host import jobs as host_jobs
from bench.host import profile, report, request, runs
from bench.host import weights as checkpoints
from bench.operators import TRACE_FILE, Operator, OperatorProfile
from bench.record import ImageRef, JobSpec, RunRecord, Weights
from bench.tasks import jobs as tasks
from tests.unit.samples import record
from tests.unit.test_tasks import invoke, refused

SPEC = JobSpec(model="gpt-nano", seq_len=8, repeats=10, rounds=3, backends=("torch-eager",))


def published(out: Path, spec: JobSpec = SPEC, **changes: Any) -> Path:
    directory = runs.create(out, spec)
    whole = record(directory.run_id).model_copy(update={"spec": spec.recorded(), **changes})
    return directory.publish(whole, report.markdown(whole))


def test_profile_end_to_end_makes_tables_and_a_trace(tmp_path: Path) -> None:
    done = invoke(
        "profile", "gpt-nano", "--engine", "local", "--seq-len", "8", "--repeats", "10",
        "--backends", "torch-eager,tvm-default", "--top", "3", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch-eager: one call" in done.stdout and "tvm-default: one call" in done.stdout
    assert "between operators" in done.stdout and "products" in done.stdout
    (path,) = runs.listed(tmp_path)
    said = done.stdout.replace("\n", "")
    assert f"open {path / TRACE_FILE} in https://ui.perfetto.dev" in said
    kept = runs.read_record(path / runs.RECORD)
    assert kept.spec.operators == "trace"
    for row in kept.results:
        assert row.operators is not None and row.operators.calls >= 1
        assert row.latency_ms is not None and len(row.latency_ms.samples) == 10
    events = json.loads((path / TRACE_FILE).read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "torch-eager", 2: "tvm-default"}
    ran = {e["pid"]: e["name"] for e in events if e["ph"] == "X" and e["cat"] == "operator"}
    assert set(ran) == {1, 2}


@pytest.mark.parametrize("target", ["last", "whole id", "directory", "its spec.json"])
def test_a_run_is_repeated_as_it_was_but_for_its_operators(tmp_path: Path, target: str) -> None:
    path = published(tmp_path)
    named = {
        "last": "last",
        "whole id": path.name,
        "directory": str(path),
        "its spec.json": str(path / "spec.json"),
    }[target]
    planned = profile.plan(named, tmp_path, {"backends": None, "seq_len": None}, engine=None)
    assert planned.spec == SPEC.model_copy(update={"operators": "trace"})
    assert planned.inputs == {}
    assert planned.place.engine == ("auto" if target == "its spec.json" else "local")


def test_what_is_named_beside_a_run_stands_in_place_of_its_own(tmp_path: Path) -> None:
    published(tmp_path)
    given = {"rounds": "1", "backends": "torch-eager,tvm-none"}
    planned = profile.plan("last", tmp_path, given, engine="auto")
    wanted = {"operators": "trace", "rounds": 1, "backends": ("torch-eager", "tvm-none")}
    assert planned.spec == SPEC.model_copy(update=wanted)
    assert planned.place.engine == "auto"


def test_a_run_in_an_image_is_repeated_in_that_very_image(tmp_path: Path) -> None:
    image = ImageRef(id="sha256:abc", digest=None, tag="gpt-frontend:x", labels={})
    published(tmp_path, engine="docker", image=image)
    place = profile.plan("last", tmp_path, {}).place
    assert (place.engine, place.image) == ("docker", "sha256:abc")
    assert profile.plan("last", tmp_path, {}, profile="cpu").place.image is None


def test_a_model_is_profiled_without_the_slow_before(tmp_path: Path) -> None:
    spec = profile.plan("gpt2", tmp_path, {"seq_len": "32"}).spec
    assert (spec.model, spec.seq_len, spec.operators) == ("gpt2", 32, "trace")
    assert spec.backends == ("torch-eager", "torch-compile", "tvm-optimized")


def trained(out: Path) -> Path:
    whole = record().spec.model_copy(update={"kind": "train"})
    path = published(out, spec=SPEC)
    text = (path / runs.RECORD).read_text()
    edited = RunRecord.model_validate_json(text).model_copy(update={"spec": whole})
    (path / runs.RECORD).write_text(runs.to_json(edited))
    return path


def why(target: str, out: Path, **options: Any) -> str:
    with pytest.raises(UsageFault) as caught:
        profile.plan(target, out, options)
    return f"{caught.value.message}\n{caught.value.hint}"


def test_a_run_that_is_no_benchmark_is_refused_and_its_weights_are_named(tmp_path: Path) -> None:
    path = trained(tmp_path)
    assert "is no benchmark: its kind is train\n`invoke results" in why("last", tmp_path)
    (path / "checkpoint").mkdir()
    assert f"invoke profile {path / 'checkpoint'}" in why("last", tmp_path)


def test_a_spec_that_is_another_than_its_record_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path)
    spec = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps({**spec, "seq_len": 9}))
    assert "do not agree" in why("last", tmp_path)
    (path / "spec.json").write_text(json.dumps({**spec, "warp": 9}))
    assert "no spec that this version can run" in why("last", tmp_path)
    (path / "spec.json").unlink()
    assert "no spec that this version can run" in why("last", tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no run 'nonsense'" in why("nonsense", tmp_path)
    (tmp_path / "other.json").write_text('{"kind": "train"}')
    assert "other.json is no spec" in why(str(tmp_path / "other.json"), tmp_path)
    assert "unknown backend 'mxnet'" in why("gpt2", tmp_path, backends="mxnet")
    assert "compile" in why(str(compiled(tmp_path)), tmp_path)


def compiled(out: Path) -> Path:
    path = out / "compile.json"
    path.write_text(JobSpec(kind="compile").model_dump_json())
    return path


def test_weights_are_found_again_and_must_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPEC.model_copy(
        update={"weights": Weights.of("run old", "a" * 64, SPEC.geometry), "model": "gpt-nano"}
    )
    published(tmp_path, spec)
    asked: list[str] = []

    def resolve(sha256: str) -> Any:
        def found(named: str, *_: Any, **__: Any) -> checkpoints.Resolved:
            asked.append(named)
            return checkpoints.Resolved(tmp_path, sha256, named, SPEC.geometry)

        return found

    monkeypatch.setattr(checkpoints, "resolve", resolve("a" * 64))
    planned = profile.plan("last", tmp_path, {})
    assert planned.inputs == {"weights": tmp_path} and asked == ["old"]
    assert planned.spec == spec.model_copy(update={"operators": "trace"})
    monkeypatch.setattr(checkpoints, "resolve", resolve("b" * 64))
    assert "other weights now" in why("last", tmp_path)
    monkeypatch.undo()
    assert "cannot be had" in why("last", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no run 'nonsense'"),
        (["gpt2", "--top", "0"], "--top '0'"),
        (["gpt2", "--seq-len", "2000"], "over the block size"),
    ],
)
def test_refusals_are_told_as_errors_with_hints(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in refused(invoke("profile", *arguments, "--out", str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_bench_asks_for_the_table_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(host_jobs, "run_job", lambda spec, *_, **__: asked.append(spec))
    tasks.bench.body(None)
    tasks.bench.body(None, operators=False)
    assert [spec.operators for spec in asked] == ["table", "none"]
    assert request.spec_from().operators == "none"


def printed(whole: RunRecord, path: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 2) -> str:
    told = io.StringIO()
    monkeypatch.setattr(profile, "OUT", Console(file=told, width=80, highlight=False))
    profile.show(whole, path, rows)
    return told.getvalue()


def profiled(names: list[str]) -> RunRecord:
    operators = [
        Operator(name=name, calls=3, total_ms=8 - at, shapes="64x768, 768x3072")
        for at, name in enumerate(names)
    ]
    found = OperatorProfile(profiler="p", calls=5, call_ms=40, operators=operators)
    whole = record()
    rows = [row.model_copy(update={"operators": found}) for row in whole.results[:2]]
    return whole.model_copy(update={"results": [*rows, *whole.results[2:]]})


def test_names_from_a_record_are_inert_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = printed(profiled(["\x1b[2J[red]mm[/red]", "a\nb\r\x07"]), tmp_path, monkeypatch)
    assert "\x1b" not in said and "\x07" not in said and "\r" not in said
    assert "[red]mm[/red]" in said


def test_shares_are_of_the_call_and_nothing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = printed(profiled(["mm", "gelu", "copy", "vm.x"]), tmp_path, monkeypatch)
    lines = [line.split() for line in said.splitlines()]
    assert ["mm", "64x768,", "768x3072", "3", "8.000", "20.0%"] in lines
    assert ["2", "others", "6", "11.000", "27.5%"] in lines
    assert ["between", "operators", "14.000", "35.0%"] in lines
    assert ["products", "8.000", "8.000"] in lines  # of both backends
    assert all(len(line) <= 80 for line in said.splitlines() if "profiler gave" not in line)
    assert "tvm-none: its profiler gave nothing" in said
    assert TRACE_FILE not in said, "a trace that is not there is not promised"
