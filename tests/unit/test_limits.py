"""What a job may use: the machine's memory and cores, under the limits of the cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import limits


@pytest.mark.parametrize(
    ("name", "text", "limited"),
    [
        ("memory.max", "1048576\n", True),
        ("memory.max", "max\n", False),
        ("memory/memory.limit_in_bytes", "1048576\n", True),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", False),
    ],
)
def test_memory_is_what_the_cgroup_leaves(
    tmp_path: Path, name: str, text: str, limited: bool
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    whole = limits.memory_bytes(tmp_path / "none")
    assert whole > 2**20
    assert limits.memory_bytes(tmp_path) == (2**20 if limited else whole)


def test_the_limits_of_every_enclosing_cgroup_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "user.slice" / "job.scope"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text("1048576\n")
    (own / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(limits, "_own_group", lambda: "/user.slice/job.scope")
    assert limits.memory_bytes(tmp_path) == 2**20
    assert limits.available_cores(tmp_path) == 1
