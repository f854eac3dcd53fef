"""Comparing runs: like with like, by rounds; exit 1 on a regression and on nothing less."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host.history import identity, verdicts
from bench.host.history.compare import Comparison, compare, demand_not_slower, threshold
from bench.record import JobSpec, Latency, RunRecord, TvmLibrary, Weights
from tests.unit.histories import image, record, rounds
from tests.unit.samples import environment

BACKEND = "tvm-optimized"


def pair(slower: float, count: int = 12) -> Comparison:
    """A run against one whose medians are ``slower`` times its own, each with its own noise."""
    return compare(
        record("base", {BACKEND: rounds(10.0, count, seed=1)}),
        record("new", {BACKEND: rounds(10.0 * slower, count, seed=2)}),
    )


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [(1.10, "slower"), (0.90, "faster"), (1.0, "no difference shown"), (1.004, None)],
)
def test_a_difference_is_told_where_the_rounds_show_it(slower: float, verdict: str | None) -> None:
    (row,) = pair(slower).rows
    assert row.verdict == (verdict or "no difference shown")
    assert row.ratio.low < slower < row.ratio.high
    assert row.base.low <= row.base.estimate <= row.base.high


def test_samples_of_one_round_carry_no_verdict() -> None:
    """As every record from before the rounds has them, however many samples there are."""
    old = record("old", {BACKEND: rounds(10.0)})
    once = Latency.of([10.0] * 50)
    (row,) = old.results
    old = old.model_copy(update={"results": [row.model_copy(update={"latency_ms": once})]})
    compared = compare(old, record("new", {BACKEND: rounds(20.0)}))
    assert compared.rows[0].verdict == "too few rounds"
    assert compared.rows[0].ratio.estimate == pytest.approx(2.0, rel=0.01)
    with pytest.raises(UsageFault, match="too few rounds"):
        demand_not_slower(compared, 0.05)


def test_rounds_are_taken_by_their_number_not_their_place_in_the_list() -> None:
    """Round i of one is paired with round i of the other, though they interleave otherwise."""
    base = rounds(10.0, seed=3, spread=0.2)
    shuffled = list(reversed(list(enumerate(base))))
    latency = Latency.of(
        [median for _, median in shuffled],
        [number for number, _ in shuffled],
        [number for number, _ in shuffled],
    )
    new = record("new", {BACKEND: base})
    (row,) = new.results
    new = new.model_copy(update={"results": [row.model_copy(update={"latency_ms": latency})]})
    (compared,) = compare(record("base", {BACKEND: base}), new).rows
    assert compared.ratio.estimate == pytest.approx(1.0, abs=1e-9)
    assert compared.ratio.high - compared.ratio.low < 1e-6


def geometry(n_layer: int) -> dict[str, int]:
    return {"n_layer": n_layer, "n_head": 2, "n_embd": 8, "block_size": 64, "vocab_size": 10}


def changed(key: str) -> RunRecord:
    """The base run but for one thing."""
    where = environment()
    asked: dict[str, Any] = {
        "model": {"model": "gpt2-xl"},
        "mode": {"mode": "decode"},
        "dtype": {"dtype": "bfloat16"},
        "batch-size": {"batch_size": 7},
        "seq-len": {"seq_len": 7},
        "kind": {"kind": "compile"},
        "pin": {"pin": (0,)},
    }
    if key in asked:
        return record("new", spec=JobSpec(**asked[key]))
    if key == "weights":
        weights = Weights(source="a", sha256="c" * 64, geometry=geometry(1))
        return record("new", spec=JobSpec(weights=weights))
    if key == "image":
        return record("new", image=image())
    if key == "threads":
        made = record("new")
        rows = [one.model_copy(update={"threads": 1}) for one in made.results]
        return made.model_copy(update={"results": rows})
    differing: dict[str, dict[str, Any]] = {
        "machine": {"gpu": "NVIDIA H100"},
        "tvm": {"tvm_library": TvmLibrary(path="/x", build_id="0.23.0+b1d")},
        "packages": {"packages": {"torch": "2.14.0"}},
    }
    return record("new", where=where.model_copy(update=differing[key]))


@pytest.mark.parametrize("key", [key for key in identity.LIKE if key not in ("driver", "device")])
def test_unlike_runs_are_refused_by_key_with_both_values(key: str) -> None:
    base, new = record("base"), changed(key)
    with pytest.raises(UsageFault) as caught:
        compare(base, new)
    ours, theirs = identity.facts(base)[key], identity.facts(new)[key]
    assert ours != theirs
    assert f"{key}: {ours} and {theirs}" in caught.value.message
    assert caught.value.hint is not None and f"--allow {key}" in caught.value.hint
    allowed = compare(base, new, allow=[key])
    assert [one.key for one in allowed.differing] == [key]
    with pytest.raises(UsageFault):
        compare(base, new, allow=[other for other in identity.LIKE if other != key])


def test_every_differing_key_is_named_at_once_and_the_hint_allows_them_all() -> None:
    new = record("new", spec=JobSpec(model="gpt2-xl", seq_len=8), image=image())
    with pytest.raises(UsageFault) as caught:
        compare(record("base"), new, allow=["seq-len"])
    assert "model: gpt2 and gpt2-xl" in caught.value.message
    assert "seq-len" not in caught.value.message
    assert str(caught.value.hint).endswith("--allow image,model,seq-len")


def test_a_gpus_driver_counts_only_where_the_gpu_is_measured() -> None:
    cuda = [
        record(
            name,
            spec=JobSpec(device="cuda"),
            where=environment().model_copy(update={"gpu": "A", "driver": driver}),
        )
        for name, driver in (("base", "550"), ("new", "560"))
    ]
    with pytest.raises(UsageFault, match="driver: 550 and 560"):
        compare(*cuda)
    spec = JobSpec().recorded()
    on_cpu = [one.model_copy(update={"spec": spec}) for one in cuda]
    assert compare(*on_cpu).rows


def test_the_same_tag_on_another_image_is_another_image() -> None:
    with pytest.raises(UsageFault, match="image"):
        compare(record("a", image=image(digit="a")), record("b", image=image(digit="b")))


def test_another_commit_or_kernel_is_told_not_refused() -> None:
    where = environment().model_copy(update={"kernel": "6.2"})
    made = compare(record("base"), record("new", where=where, commit="2" * 40))
    assert {one.key for one in made.differing} == {"kernel", "commit"}
    assert not any(one.refused for one in made.differing)


def test_an_unknown_key_to_allow_is_refused() -> None:
    with pytest.raises(UsageFault, match="colour"):
        compare(record("base"), record("new"), allow=["colour"])


def test_a_run_that_ended_before_it_knew_its_machine_is_refused() -> None:
    nowhere = record("nowhere").model_copy(update={"environment": None})
    with pytest.raises(UsageFault, match="nowhere"):
        compare(nowhere, nowhere)


def test_a_backend_that_failed_does_not_make_its_run_unlike() -> None:
    """It took no threads and loaded no TVM: that is what is to be told, not what forbids it."""
    where = environment()
    tvm = where.model_copy(update={"tvm_library": TvmLibrary(path="/x", build_id="0.23.0+b1d")})
    base = record("base", {"torch-eager": rounds(5.0), BACKEND: rounds(10.0)}, where=tvm)
    rows = [base.results[0].model_copy(update={"threads": 4}), base.results[1]]
    base = base.model_copy(update={"results": rows})
    new = record("new", {"torch-eager": None, BACKEND: rounds(10.0)}, where=tvm)
    assert [one.backend for one in compare(base, new).lost] == ["torch-eager"]
    nothing = record("new", {"torch-eager": None, BACKEND: None})
    with pytest.raises(JobFailed, match="no figure any more"):
        demand_not_slower(compare(base, nothing), 0.05)


def test_only_what_both_have_is_compared_and_the_rest_is_named() -> None:
    made = compare(
        record("base", {"tvm-none": rounds(5.0), BACKEND: rounds(1.0, 14)}),
        record("new", {BACKEND: rounds(1.0), "torch-eager": rounds(2.0)}),
    )
    assert [row.name for row in made.rows] == [BACKEND]
    assert made.notes == (
        "tvm-none is in base only",
        "torch-eager is in new only",
        f"{BACKEND}: 14 and 12 rounds; the first 12 count",
    )
    with pytest.raises(UsageFault, match="no backend was measured in both"):
        compare(record("base", {"tvm-none": rounds(1.0)}), record("new"))
    with pytest.raises(UsageFault, match="no backend tvm-all"):
        compare(record("base"), record("new"), backends=["tvm-all"])


def test_ttft_of_a_decode_is_compared_beside_its_latency() -> None:
    def decoded(run_id: str, first: float) -> RunRecord:
        made = record(run_id, spec=JobSpec(mode="decode"))
        (row,) = made.results
        again = record("x", {BACKEND: rounds(first)}).results[0].latency_ms
        return made.model_copy(update={"results": [row.model_copy(update={"ttft_ms": again})]})

    made = compare(decoded("base", 50.0), decoded("new", 60.0))
    assert {row.name: row.verdict for row in made.rows} == {
        BACKEND: "no difference shown",
        f"{BACKEND} ttft": "slower",
    }
    with pytest.raises(JobFailed, match="ttft"):
        demand_not_slower(made, 0.05)


@pytest.mark.parametrize(
    ("slower", "fails"), [(1.08, True), (1.03, False), (1.0, False), (0.8, False)]
)
def test_the_gate_closes_on_a_regression_over_its_threshold_alone(
    slower: float, fails: bool
) -> None:
    made = pair(slower)
    if not fails:
        demand_not_slower(made, 0.05)
        return
    with pytest.raises(JobFailed, match="slower than base by more than 5%") as caught:
        demand_not_slower(made, 0.05)
    assert caught.value.exit_code == 1 and BACKEND in caught.value.message


def test_a_slowdown_that_noise_could_be_does_not_close_the_gate() -> None:
    base = record("base", {BACKEND: rounds(10.0, seed=1, spread=0.3)})
    new = record("new", {BACKEND: rounds(11.0, seed=2, spread=0.3)})
    demand_not_slower(compare(base, new), 0.05)


def test_a_backend_that_now_fails_closes_the_gate() -> None:
    base = record("base", {BACKEND: rounds(10.0), "tvm-none": rounds(20.0)})
    made = compare(base, record("new", {BACKEND: rounds(10.0), "tvm-none": None}))
    with pytest.raises(JobFailed, match="tvm-none has no figure any more: it crashed"):
        demand_not_slower(made, 0.05)
    demand_not_slower(compare(base, record("new"), backends=[BACKEND]), 0.05)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0%", 0.0), (" 2.5 % ", 0.025)])
def test_a_percentage_is_read(text: str, share: float) -> None:
    assert threshold(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "0.05", "-5%", "five%", "", "%", "1e3%", "1001%", "\u0665%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageFault, match="no percentage"):
        threshold(text)


HOSTILE = "<script>alert(1)</script>|`[x](http://x)@all\x1b[31m\n# big"


def test_hostile_strings_are_inert_in_every_form() -> None:
    row = record("x", {HOSTILE: rounds(10.0)}).results[0]
    where = environment().model_copy(update={"cpu": HOSTILE})
    base, new = (
        record(run_id, where=where).model_copy(
            update={"results": [row.model_copy(update={"unstable": [HOSTILE]})], "reason": HOSTILE}
        )
        for run_id in (HOSTILE, "new")
    )
    made = compare(base, new)
    for line in verdicts.lines(made):
        assert line.isprintable()
    written = verdicts.comment(made, failed=HOSTILE)
    assert "\x1b" not in written
    for line in written.splitlines():
        # All that came from the record stands between a pair of backticks.
        outside = "".join(line.split("`")[::2]).replace(verdicts.MARKER, "")
        assert line.count("`") % 2 == 0 and "<" not in outside and "@" not in outside, line
    table = [line for line in written.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {6}
    assert HOSTILE in json.dumps(verdicts.data(made)).encode().decode("unicode_escape")


def test_the_comment_and_the_data_say_the_verdict() -> None:
    made = pair(1.1)
    written = verdicts.comment(made)
    assert written.startswith(verdicts.MARKER) and "### Benchmark: 1 slower" in written
    assert f"| `{BACKEND}` |" in written
    (row,) = verdicts.data(made)["rows"]
    assert row["verdict"] == "slower" and row["ratio"]["rounds"] == 12


def test_the_data_of_a_single_round_is_json() -> None:
    text = json.dumps(verdicts.data(pair(1.1, count=1)), allow_nan=False)
    assert json.loads(text)["rows"][0]["ratio"]["high"] is None
