"""Bisecting a small repository whose commits say how slow they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import runs
from bench.host.history import measuring, repository
from bench.host.history.bisect import Step, bisect
from bench.record import JobSpec, RunRecord
from tests.unit.histories import record, rounds

BACKEND = "tvm-optimized"
BROKEN = "broken"


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *who, "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, speed: object, name: str = "speed") -> str:
    (root / name).write_text(str(speed))
    (root / "counter").write_text(git(root, "rev-list", "--all", "--count"))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", f"{name} {speed}")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch", "main")
    return path


def history(root: Path, *speeds: object) -> list[str]:
    return [commit(root, speed) for speed in speeds]


def measure(name: str, tree: Path) -> RunRecord:
    """The speed in the tree, in milliseconds, with a noise of this commit's own."""
    text = (tree / "speed").read_text()
    if text == BROKEN:
        raise JobFailed("it does not build")
    return record(name, {BACKEND: rounds(float(text), seed=int(name[:8], 16))}, commit=name)


def clean(root: Path) -> bool:
    only_ours = len(git(root, "worktree", "list").splitlines()) == 1
    return only_ours and git(root, "status", "--porcelain") == ""


@pytest.mark.parametrize("place", [1, 4, 7])
def test_the_commit_is_found(root: Path, place: int) -> None:
    made = history(root, *(10.0 if number < place else 11.0 for number in range(8)))
    found = bisect(root, made[0], "main", BACKEND, measure)
    assert found.commits == (made[place],)
    assert found.effect.estimate == pytest.approx(1.1, rel=0.01)
    assert len(found.steps) <= 3  # of six between the ends
    assert clean(root)


def test_a_smaller_step_before_it_does_not_mislead(root: Path) -> None:
    """Shown to be slower is not enough: it is asked which of the ends a commit is like."""
    made = history(root, 10.0, 10.2, 10.2, 12.0, 12.1)
    assert bisect(root, made[0], made[-1], BACKEND, measure).commits == (made[3],)


def test_what_cannot_be_measured_is_passed_over(root: Path) -> None:
    made = history(root, 10.0, 10.0, BROKEN, BROKEN, 10.0, 11.0, 11.0)
    found = bisect(root, made[0], made[-1], BACKEND, measure)
    assert found.commits == (made[5],)


def test_where_those_at_the_border_cannot_be_measured_all_are_named(root: Path) -> None:
    made = history(root, 10.0, BROKEN, BROKEN, 11.0, 11.0)
    found = bisect(root, made[0], made[-1], BACKEND, measure)
    assert found.commits == tuple(made[1:4])
    assert {step.reason for step in found.steps if step.state == "skipped"} == {"it does not build"}


def test_a_backend_that_fails_in_between_is_passed_over(root: Path) -> None:
    made = history(root, 10.0, BROKEN, 11.0)

    def failing(name: str, tree: Path) -> RunRecord:
        if (tree / "speed").read_text() == BROKEN:
            return record(name, {BACKEND: None})
        return measure(name, tree)

    found = bisect(root, made[0], made[-1], BACKEND, failing)
    assert found.commits == tuple(made[1:])
    assert found.steps[0].reason == "it crashed"


def test_every_step_is_told_with_what_is_left(root: Path) -> None:
    made = history(root, *[10.0] * 5, *[11.0] * 4)
    told: list[tuple[Step, int]] = []
    found = bisect(
        root, made[0], made[-1], BACKEND, measure, on_step=lambda *step: told.append(step)
    )
    assert [step for step, _ in told] == list(found.steps)
    assert told[-1][1] == 1
    assert str(told[0][0]).startswith(told[0][0].commit[:12])


@pytest.mark.parametrize(
    ("speeds", "said"),
    [((10.0, 10.0), "is not shown to be slower"), ((11.0, 10.0), "is not shown to be slower")],
)
def test_ends_that_are_no_regression_are_refused(
    root: Path, speeds: tuple[float, ...], said: str
) -> None:
    made = history(root, *speeds)
    with pytest.raises(UsageFault, match=said):
        bisect(root, made[0], made[-1], BACKEND, measure)
    assert clean(root)


def test_ends_that_do_not_follow_each_other_are_refused_unmeasured(root: Path) -> None:
    made = history(root, 10.0, 11.0)

    def never(name: str, tree: Path) -> RunRecord:
        raise AssertionError("measured")

    for good, bad in ((made[1], made[0]), (made[0], made[0])):
        with pytest.raises(UsageFault, match="does not come before"):
            bisect(root, good, bad, BACKEND, never)
    for name in ("no-such", "--help", "HEAD:speed"):
        with pytest.raises(UsageFault, match="no commit"):
            bisect(root, name, "main", BACKEND, never)


def test_too_few_rounds_and_unlike_runs_end_it(root: Path) -> None:
    made = history(root, 10.0, 11.0, 11.0)

    def few(name: str, tree: Path) -> RunRecord:
        return record(name, {BACKEND: rounds(float((tree / "speed").read_text()), 4)})

    with pytest.raises(UsageFault, match="4 rounds are too few"):
        bisect(root, made[0], made[-1], BACKEND, few)

    def unlike(name: str, tree: Path) -> RunRecord:
        length = 8 if name == made[0] else 16
        return record(name, {BACKEND: rounds(10.0)}, spec=JobSpec(seq_len=length))

    with pytest.raises(UsageFault, match="seq-len: 8 and 16"):
        bisect(root, made[0], made[-1], BACKEND, unlike)
    assert clean(root)


def test_a_merge_stands_for_what_it_brought(root: Path) -> None:
    first = commit(root, 10.0)
    git(root, "checkout", "--quiet", "-b", "side")
    commit(root, 11.0)
    commit(root, 11.0)
    git(root, "checkout", "--quiet", "main")
    commit(root, 1, name="other")
    git(
        root,
        "merge",
        "--quiet",
        "--no-ff",
        "--message",
        "merged",
        "--strategy-option=theirs",
        "side",
    )
    merged = git(root, "rev-parse", "HEAD")
    commit(root, 2, name="other")
    assert bisect(root, first, "main", BACKEND, measure).commits == (merged,)


def test_a_measurement_finds_a_clean_tree_and_leaves_the_users_alone(root: Path) -> None:
    made = history(root, 10.0, 10.0, 11.0, 11.0)
    (root / "speed").write_text("mine")

    def messy(name: str, tree: Path) -> RunRecord:
        assert not (tree / "left").exists() and tree != root
        assert git(tree, "rev-parse", "HEAD") == name
        found = measure(name, tree)
        (tree / "left").mkdir()
        (tree / "speed").write_text("edited")
        return found

    assert bisect(root, made[0], made[-1], BACKEND, messy).commits == (made[2],)
    assert (root / "speed").read_text() == "mine"
    assert git(root, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def test_an_interrupt_leaves_no_work_tree(root: Path) -> None:
    made = history(root, 10.0, 11.0)

    def interrupted(name: str, tree: Path) -> RunRecord:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bisect(root, made[0], made[-1], BACKEND, interrupted)
    assert clean(root)


def test_outside_a_repository_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="git"), repository.worktree(tmp_path):
        raise AssertionError("no tree can be made")
    with pytest.raises(UsageFault, match="git knows no commit"):
        repository.commit_of(tmp_path, "HEAD")


# Stands in for `invoke bench`: publishes what the test prepared, and ends as it is told.
PROGRAM = """
import pathlib, shutil, sys
speed = pathlib.Path("speed").read_text()
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
print("not a word of it on standard output")
if speed != "silent":
    prepared = pathlib.Path(sys.argv[1])
    shutil.copytree(prepared, out / prepared.name)
if speed == "fails":
    print("error: the job failed: no luck", file=sys.stderr)
    print("hint: none", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def by_program(tmp_path: Path) -> Callable[[Path], Callable[[str, Path], RunRecord]]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    prepared = tmp_path / "run-0"
    prepared.mkdir()
    (prepared / runs.RECORD).write_text(runs.to_json(record("run-0")))
    return lambda out: measuring.by_bench(
        [str(prepared)], out, program=[sys.executable, str(program)]
    )


def test_a_commit_is_measured_by_its_own_bench_and_the_run_is_kept(
    root: Path,
    tmp_path: Path,
    by_program: Callable[[Path], Callable[[str, Path], RunRecord]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    commit(root, 10.0)
    out = tmp_path / "out"
    assert by_program(out)("a" * 40, root) == record("run-0")
    assert [path.name for path in out.iterdir()] == ["run-0"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("speed", "said", "kept"),
    [("fails", "error: the job failed: no luck", ["run-0"]), ("silent", "it said nothing", [])],
)
def test_a_bench_that_fails_is_a_failed_commit_and_its_run_is_kept(
    root: Path,
    tmp_path: Path,
    by_program: Callable[[Path], Callable[[str, Path], RunRecord]],
    speed: str,
    said: str,
    kept: list[str],
) -> None:
    commit(root, speed)
    out = tmp_path / "out"
    with pytest.raises(JobFailed, match=said):
        by_program(out)("a" * 40, root)
    assert [path.name for path in out.iterdir()] == kept


def test_an_out_that_cannot_be_written_is_refused(
    tmp_path: Path, by_program: Callable[[Path], Callable[[str, Path], RunRecord]]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageFault, match="cannot write to"):
        by_program(tmp_path / "file")("a" * 40, tmp_path)
