"""The contract's data, and what the host makes of it: table, file, refusal."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from bench.build import contract as build_contract
from bench.contract import Check, ContractRecord, Expected, Findings
from bench.errors import JobFailed, UsageFault
from bench.host import verify
from bench.host.engine.docker import DockerEngine
from bench.record import ImageRef

SOURCE: dict[str, Any] = {
    "profile": "llvm10",
    "device": "cuda",
    "tvm_from": "source",
    "tvm": "0.23.0",
    "tvm_ffi": "0.1.8.post2",
    "torch": "2.13.0",
    "cuda": True,
    "cuda_architectures": ["80", "86"],
    "build_type": "Debug",
    "llvm_version": "10.0.0",
    "llvm_config": "/llvm/bin/llvm-config",
    "commit": "1" * 40,
}
GOOD = Check(name="build type", ok=True, wanted="Debug", seen="Debug")
BAD = Check(
    name="LLVM version",
    ok=False,
    wanted="10.0.0",
    seen="14.0.6",
    hint="see USE_LLVM [in] the cache",
)


def record(*checks: Check, tag: str = "gpt-frontend:llvm10-0123456789ab") -> ContractRecord:
    return ContractRecord(
        image=ImageRef(id="sha256:aa", digest=None, tag=tag, labels={}),
        profile="llvm10",
        created_at=datetime(2026, 11, 23, 12, tzinfo=timezone.utc),
        expected=Expected.model_validate(SOURCE),
        checks=checks,
        size_bytes=3 * 2**30,
        build_stage_bytes=9 * 2**30,
        seconds=61.0,
    )


def test_an_expected_survives_the_way_into_the_image() -> None:
    expected = Expected.model_validate(SOURCE)
    assert Expected.model_validate_json(expected.model_dump_json()) == expected
    # What the build's side reads is the same JSON, by the same names.
    assert json.loads(expected.model_dump_json())["cuda_architectures"] == ["80", "86"]


@pytest.mark.parametrize("name", ["build_type", "llvm_version", "llvm_config", "commit"])
def test_a_source_build_must_say_what_it_is(name: str) -> None:
    with pytest.raises(ValidationError, match=f"must say: {name}"):
        Expected.model_validate({**SOURCE, name: None})


def test_a_cuda_build_must_name_its_architectures() -> None:
    with pytest.raises(ValidationError, match="cuda_architectures"):
        Expected.model_validate({**SOURCE, "cuda_architectures": []})


@pytest.mark.parametrize(
    "wrong", [{"llvm": "10"}, {"build_type": "debug"}, {"commit": "v0.23.0"}, {"budget_bytes": 0}]
)
def test_a_promise_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Expected.model_validate({**SOURCE, **wrong})


def test_both_sides_write_a_check_in_one_shape() -> None:
    theirs = build_contract.check("a", False, 1, 2, "mend it")
    assert set(dataclasses.asdict(theirs)) == set(Check.model_fields)
    ours = Check.model_validate(dataclasses.asdict(theirs))
    assert ours == Check(name="a", ok=False, wanted="1", seen="2", hint="mend it")
    assert build_contract.check("a", True, 1, 1, "mend it").hint is None


def test_a_record_passes_only_whole() -> None:
    assert record(GOOD).passed
    assert not record(GOOD, BAD).passed
    assert record(GOOD, BAD).failed == (BAD,)
    with pytest.raises(ValidationError):
        record()  # nothing was checked: that is no pass


def test_what_failed_is_demanded_with_its_remedy() -> None:
    verify.demand(record(GOOD))
    with pytest.raises(JobFailed) as caught:
        verify.demand(record(GOOD, BAD))
    assert "1 of 2 checks failed" in caught.value.message
    assert "LLVM version: 14.0.6 (wanted: 10.0.0)\n    see USE_LLVM" in caught.value.message
    assert "build type" not in caught.value.message
    assert "docs/contract.md" in (caught.value.hint or "")


def test_the_table_shows_remedies_where_they_are_needed() -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(verify.table(record(GOOD, BAD)))
    shown = console.export_text()
    assert "see USE_LLVM [in] the cache" in shown  # brackets are no markup
    assert "10.0.0" in shown
    assert shown.count("remedy") == 1


def test_the_summary_has_both_sizes() -> None:
    said = verify.summary(record(GOOD, BAD))
    assert "1 of 2 checks passed, 3.00 GiB (the stage that built it: 9.00 GiB)" in said


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("gpt-frontend:llvm10-0123456789ab", "llvm10-0123456789ab.json"),
        ("localhost:5000/team/gpt-frontend:cpu-1", "cpu-1.json"),
        ("sha256:0123", "0123.json"),
    ],
)
def test_a_record_is_named_after_its_image(tag: str, name: str) -> None:
    assert verify.path_of(record(GOOD, tag=tag), Path("out")) == Path("out", name)


def test_a_record_replaces_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    verify.write(record(GOOD, BAD), folder)
    path = verify.write(record(GOOD), folder)
    assert list(folder.iterdir()) == [path]
    assert ContractRecord.model_validate_json(path.read_bytes()) == record(GOOD)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageFault, match="cannot write") as caught:
        verify.write(record(GOOD), tmp_path / "file" / "contracts")
    assert caught.value.hint


def test_a_budget_is_checked_where_there_is_one() -> None:
    assert verify._within_budget(5, None) == []
    assert [one.ok for one in verify._within_budget(5, 5)] == [True]
    (over,) = verify._within_budget(3 * 2**30, 2 * 2**30)
    assert (over.ok, over.seen, over.wanted) == (False, "3.00 GiB", "at most 2.00 GiB")
    assert over.hint


def test_findings_of_a_later_version_are_read() -> None:
    text = '{"schema_version": 1, "checks": [], "facts": {}, "seconds": 1, "new": true}'
    assert Findings.model_validate_json(text).checks == ()


def test_the_contract_runs_where_a_jobs_spec_would_lie() -> None:
    command = verify._ContractEngine.command
    folder = DockerEngine.command[-1].rpartition("/")[0]
    assert command[:3] == ("python", "-m", "bench.job.contract")
    assert f"{folder}/expected.json" in command and f"{folder}/findings.json" in command
