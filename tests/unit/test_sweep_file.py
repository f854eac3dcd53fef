"""A sweep's file and its cells: what is refused, and what the product of the axes has to be."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.catalog import BACKENDS, DTYPES, MODELS, MODES
from bench.errors import UsageFault
from bench.host.sweep import file as files
from bench.host.sweep.file import Axes, Matrix, SweepFile
from bench.host.sweep.matrix import Cells, expand
from bench.record import JobSpec
from tests.conftest import ROOT

HERE = Path("a.toml")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.toml"
    path.write_text(text)
    return path


def cells(tmp_path: Path, text: str) -> Cells:
    path = written(tmp_path, text)
    return expand(files.read(path), path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modell = 'gpt2'", "unknown key 'modell'; did you mean 'model'?"),
        ("seq-len = 8", "unknown key 'seq-len'; did you mean 'seq_len'?"),
        ("seed = 1\n[[sweep]]\n[[sweep]]\nbatchsize = 2", "sweep 2: unknown key 'batchsize'; did"),
        ("[[exclude]]\nbackends = 'tvm-none'", "exclude 1: unknown key 'backends'; choose from"),
        ("model = 'gpt3'", "sweep 1 model 1: unknown 'gpt3'; did you mean 'gpt2'?"),
        ("backends = ['tvm']", "sweep 1 backends 1: unknown 'tvm'"),
        ("seq_len = [8, 8]", "sweep 1 seq_len: a value stands here twice"),
        ("seq_len = []", "sweep 1 seq_len: an empty list leaves nothing"),
        ("seq_len = 0", "sweep 1 seq_len 1: Input should be greater than or equal to 1"),
        ("seq_len = 8.5", "sweep 1 seq_len 1: Input should be a valid integer"),
        ("seq_len = true", "sweep 1 seq_len 1: Input should be a valid integer"),
        ("engine = 'swarm'", "engine: Input should be 'auto', 'docker' or 'local'"),
        ("repeats = 3", "repeats: Input should be greater than or equal to 10 (it is 3)"),
        ("timeout_s = inf", "timeout_s: Input should be a finite number"),
        ("pin = []", "pin: "),
        ("sweep = 3", "sweep is no table"),
        ("[[exclude]]", "an empty exclude takes out every cell"),
        ("[[exclude]]\nseq_len = 9", "exclude 1 fits no cell"),
        ("seq_len = 9\n[[exclude]]\nseq_len = 9", "leaves nothing to measure"),
        ("mode = 'encode'", "leaves nothing to measure: mode encode: mode encode is not for gpt2"),
        ("a = [", "is no TOML: "),
        ("a = " + "[" * 100_000, ""),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageFault) as caught:
        cells(tmp_path, text)
    assert said in caught.value.message and "a.toml" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(UsageFault, match="cannot read"):
        files.read(tmp_path / "a.toml")


def test_keys_above_the_tables_hold_for_all_of_them(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        "model = 'gpt-nano'\nrounds = 3\n[[sweep]]\nseq_len = [8, 16]\n"
        "[[sweep]]\nmode = 'decode'\nrounds = 5\n",
    ).possible
    assert [(c.spec.mode, c.spec.seq_len, c.spec.rounds) for c in found] == [
        ("prefill", 8, 3),
        ("prefill", 16, 3),
        ("decode", JobSpec().seq_len, 5),
    ]
    assert {cell.spec.model for cell in found} == {"gpt-nano"}


def test_an_empty_file_is_what_bench_measures(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, "").possible
    assert (cell.spec, cell.profile) == (JobSpec(), None)


def test_a_cell_that_two_tables_ask_for_is_one_with_both_their_backends(tmp_path: Path) -> None:
    (cell,) = cells(
        tmp_path,
        "[[sweep]]\nbackends = ['tvm-none']\ntimeout_s = 5.0\n"
        "[[sweep]]\nbackends = ['torch-eager', 'tvm-none']\ntimeout_s = 9.0\n",
    ).possible
    assert cell.spec.backends == ("tvm-none", "torch-eager")
    assert cell.spec.timeout_s == 9.0


def test_what_cannot_be_is_told_and_left_out(tmp_path: Path) -> None:
    found = cells(tmp_path, "model = ['gpt2', 'bert-base']\nseq_len = [512, 1024]")
    assert [(c.spec.model, c.spec.mode, c.spec.seq_len) for c in found.possible] == [
        ("gpt2", "prefill", 512),
        ("gpt2", "prefill", 1024),
        ("bert-base", "encode", 512),
    ]
    (one,) = found.impossible
    assert one.what == "model bert-base, seq_len 1024, mode encode"
    assert "over the block size of bert-base" in one.reason


def some(values: Any) -> st.SearchStrategy[tuple[Any, ...] | None]:
    several = st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)
    return st.none() | several


AXES = st.fixed_dictionaries(
    {
        "model": some(list(MODELS)),
        "mode": some(list(MODES)),
        "seq_len": some([1, 8, 511, 512, 513, 1023, 1024, 1025]),
        "batch_size": some([1, 8]),
        "dtype": some(list(DTYPES)),
        "profile": some(["cpu", "latest"]),
        "threads": some([1, 2]),
    }
)


@given(st.lists(AXES, min_size=1, max_size=2), st.lists(AXES, max_size=2))
def test_every_combination_is_a_cell_an_impossible_one_or_excluded(
    tables: list[dict[str, Any]], excluded: list[dict[str, Any]]
) -> None:
    excluded = [one for one in excluded if any(one.values())]
    file = SweepFile(
        sweep=tuple(Matrix(**one) for one in tables), exclude=tuple(Axes(**one) for one in excluded)
    )
    try:
        found = expand(file, HERE)
    except UsageFault as fault:
        assert "fits no cell" in fault.message or "leaves nothing" in fault.message
        return
    keys = [cell.key for cell in found.possible]
    assert len(set(keys)) == len(keys)
    wanted = set()
    for table in tables:
        axes = {name: values for name, values in table.items() if values is not None}
        for combination in itertools.product(*axes.values()):
            one = dict(zip(axes, combination, strict=True))
            one.setdefault("mode", "encode" if one.get("model") == "bert-base" else "prefill")
            whole = {**JobSpec().model_dump(), "profile": None, **one}
            fits = [
                all(values is None or whole[name] in values for name, values in out.items())
                for out in excluded
            ]
            if not any(fits):
                wanted.add(tuple(sorted((k, v) for k, v in whole.items() if k in AXES_NAMES)))
    got = {
        tuple(sorted({**shown(cell.spec), "profile": cell.profile}.items()))
        for cell in found.possible
    }
    assert got <= wanted
    # What is missing is impossible: no spec can be made of it.
    for missing in wanted - got:
        options = {key: value for key, value in missing if key != "profile"}
        with pytest.raises(ValueError, match=r"block size|is not for|fills the block"):
            JobSpec.model_validate(options)


AXES_NAMES = {"model", "mode", "seq_len", "batch_size", "dtype", "profile", "threads"}


def shown(spec: JobSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in AXES_NAMES - {"profile"}}


def test_every_example_can_be_measured_whole() -> None:
    examples = sorted((ROOT / "docs" / "sweeps").glob("*.toml"))
    assert examples
    for path in examples:
        found = expand(files.read(path), path)
        assert found.possible and not found.impossible, path
        assert found.possible[0].spec.backends == tuple(BACKENDS)


def test_the_guide_names_every_key() -> None:
    guide = (ROOT / "docs" / "sweeps.md").read_text()
    for name in (*Matrix.model_fields, *SweepFile.model_fields):
        assert f"`{name}`" in guide or f"`[[{name}]]`" in guide, name
