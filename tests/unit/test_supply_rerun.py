"""A recorded run repeated and compared: image, parity, timings, each said as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError, JobFailed, UsageFault
from bench.host import weights
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.fake import FakeEngine
from bench.host.supply import again
from bench.host.supply import rerun as rerunning
from bench.host.supply.obtain import Obtained
from bench.record import JobOutcome, JobSpec, Parity, RunRecord, Weights
from tests.conftest import ROOT
from tests.unit import samples
from tests.unit.histories import image, publish, record, rounds

IMAGE = image()
NAME = "tvm-optimized"


def judged(new: RunRecord, same: bool = True, base: RunRecord | None = None) -> rerunning.Rerun:
    made = base or record(image=IMAGE)
    got = Obtained(new.image or IMAGE, "present", same)
    return rerunning.judge(made, new, got, None)


def with_parity(made: RunRecord, parity: Parity | None) -> RunRecord:
    failed = {"parity": parity, "latency_ms": None, "status": "failed", "tokens_per_s": None}
    rows = [one.model_copy(update=failed) for one in made.results]
    return made.model_copy(update={"results": rows})


def test_the_same_image_and_machine_are_called_so() -> None:
    said = rerunning.lines(judged(record("new", image=IMAGE)))
    assert said[0] == f"image: the record's own, {IMAGE.tag} {IMAGE.id} (present)"
    assert "parity: 1 of 1 backends" in said[1]
    assert said[-1].startswith("timings: of like runs")


def test_another_image_is_never_called_the_records_own() -> None:
    said = rerunning.lines(judged(record("new", image=image(digit="b")), same=False))
    assert "NOT the record's" in said[0]
    assert said[-1].startswith("timings: of unlike runs (image)")


def test_one_image_under_two_engines_names_is_no_difference() -> None:
    made = judged(record("new", image=image(digit="b")), same=True)
    assert [one.key for one in made.comparison.differing] == []


def test_unlike_machines_are_named_and_compared_all_the_same() -> None:
    where = samples.environment().model_copy(update={"cpu": "Another CPU", "cores": 64})
    slow = {NAME: rounds(20.0)}
    made = judged(record("new", slow, image=IMAGE, where=where))
    assert made.comparison.rows[0].verdict == "slower"
    assert rerunning.lines(made)[-1].startswith("timings: of unlike machines (machine)")
    rerunning.demand(made)  # slower is no failure


def test_a_lost_parity_fails_and_is_named() -> None:
    wrong = samples.PARITY.model_copy(update={"passed": False, "max_abs_err": 3.0})
    for parity in (wrong, None):
        made = judged(with_parity(record("new", image=IMAGE), parity))
        with pytest.raises(JobFailed, match=f"parity was not reached again by {NAME}"):
            rerunning.demand(made)
    assert "3 (FAILED)" in "".join(
        rerunning.lines(judged(with_parity(record("new", image=IMAGE), wrong)))
    )


def test_a_backend_that_the_record_has_no_parity_of_cannot_be_lost() -> None:
    base = record(medians={NAME: rounds(10.0), "tvm-none": None}, image=IMAGE)
    base_rows = [
        one if one.backend == NAME else one.model_copy(update={"parity": None})
        for one in base.results
    ]
    base = base.model_copy(update={"results": base_rows})
    rerunning.demand(judged(record("new", image=IMAGE), base=base))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (True, "the code and locks are the record's"),
        (False, "the code or the locks are NOT the record's"),
        (None, "does not name the code"),
    ],
)
def test_an_environment_is_compared_where_there_was_no_image(
    content: bool | None, said: str
) -> None:
    newer = samples.environment().model_copy(update={"packages": {"torch": "2.14.0"}})
    made = rerunning.judge(record(), record("new", where=newer), None, content)
    assert said in rerunning.lines(made)[0]
    assert rerunning.lines(made)[-1].startswith("timings: of unlike runs (packages)")


def test_what_is_no_benchmark_or_has_no_figure_is_refused(tmp_path: Path) -> None:
    training = record().model_copy(
        update={"spec": JobSpec().recorded().model_copy(update={"kind": "train"})}
    )
    for made, said in ((training, "of kind train"), (record(medians={NAME: None}), "nothing")):
        with pytest.raises(UsageFault, match=said):
            rerunning.spec_of(made)


def test_a_spec_of_a_later_version_is_refused_with_its_reason() -> None:
    later = JobSpec().recorded().model_copy(update={"mode": "telepathy"})
    with pytest.raises(UsageFault, match="telepathy"):
        rerunning.spec_of(record().model_copy(update={"spec": later}))


def test_the_spec_is_the_records_own() -> None:
    spec = JobSpec(model="gpt-nano", seq_len=16, seed=7, repeats=10, backends=("torch-eager",))
    assert rerunning.spec_of(record(medians={"torch-eager": [1.0]}, spec=spec)) == spec


def test_other_weights_than_the_records_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = {"n_layer": 1}
    spec = JobSpec.model_construct(
        weights=Weights(source="run gone", sha256="a" * 64, geometry=geometry)
    )
    asked = []

    def resolve(named: str, out: Path, environ: dict[str, str]) -> Any:
        asked.append(named)
        return type("R", (), {"sha256": "b" * 64, "source": named, "directory": tmp_path})

    monkeypatch.setattr(weights, "resolve", resolve)
    for named in (None, "mine"):
        with pytest.raises(UsageFault, match="is not the checkpoint of the record"):
            rerunning.inputs_of(spec, named, tmp_path, {})
    assert asked == ["gone", "mine"]


def test_a_record_is_read_by_its_name_its_directory_or_its_file(tmp_path: Path) -> None:
    path = publish(tmp_path, record())
    for named in (path.name, str(path), str(path / "record.json")):
        assert rerunning.record_of(named, tmp_path).run_id == record().run_id


def repeated(where: Any) -> FakeEngine:
    def script(at: Launch, on_line: OnLine) -> Ending:
        row = record(medians={NAME: rounds(11.0)}).results[0]
        outcome = JobOutcome(environment=where, results=[row], finished=True)
        (at.run_dir / "outcome.json").write_text(outcome.model_dump_json())
        return Ending("exited", exit_code=0)

    return FakeEngine(script)


def rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    options = {
        "weights": None,
        "archive": None,
        "place": None,
        "allow": (),
        "bounds": None,
        "as_json": False,
        **given,
    }
    got = Obtained(IMAGE, "present", True)
    place = (repeated(samples.environment()), got, None)
    monkeypatch.setattr(again, "_place", lambda *_: place)
    again.rerun("last", tmp_path, **options)


def test_a_rerun_is_a_run_of_its_own_and_says_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, record(medians={NAME: rounds(10.0)}, image=IMAGE))
    rerun(tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    for word in ("the record's own", "1 of 1 backends", "slower", "of like runs", "kept in"):
        assert word in printed
    assert len(list(tmp_path.iterdir())) == 2


def test_a_rerun_as_json_is_json_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, record(medians={NAME: rounds(10.0)}, image=IMAGE))
    rerun(tmp_path, monkeypatch, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["image"]["same"] is True and said["parity"][0]["kept"] is True
    assert said["timings"]["rows"][0]["verdict"] == "slower"


def test_an_unknown_key_to_allow_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchError, match="--allow machine"):
        rerun(tmp_path, monkeypatch, allow=("machine",))


def test_a_local_run_is_repeated_for_real_and_its_environment_compared(tmp_path: Path) -> None:
    def invoke(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *arguments, "--out", str(tmp_path)],
            cwd=ROOT,
            env=dict(os.environ),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    asked = ("--engine", "local", "--model", "gpt-nano", "--seq-len", "8", "--repeats", "10")
    invoke("bench", *asked, "--backends", "torch-eager", "--no-operators")
    said = json.loads(invoke("rerun", "last", "--json"))
    assert said["image"] is None and said["content_same"] is True
    (row,) = said["parity"]
    assert row["kept"] and row["base"]["max_abs_err"] == row["new"]["max_abs_err"]
    assert said["timings"]["differing"] == []
