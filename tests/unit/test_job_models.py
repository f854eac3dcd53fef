"""Whole jobs of every mode and kind, for real, through the local engine."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.catalog import GPTConfig
from bench.errors import UsageFault
from bench.host import launch
from bench.host.engine.local import LocalEngine
from bench.host.store import Store
from bench.job import gpt, weights
from bench.job.compile import build
from bench.record import JobSpec, Latency, Result, RunRecord, Weights
from tests.conftest import ROOT

VERSE = ["the cat sat", "on the mat", "and the dog ran", "to the log", "where the frog is"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"), 2**30)


def run(spec: JobSpec, out: Path, store: Store, **inputs: Path) -> RunRecord:
    record, _ = launch.run(spec, LocalEngine(), None, out, store, inputs=inputs)
    return record


def measured(row: Result) -> Latency:
    assert row.status == "ok", row.reason
    assert row.parity is not None and row.parity.passed
    assert row.latency_ms is not None
    return row.latency_ms


def test_decoding_is_measured_by_the_token(tmp_path: Path, store: Store) -> None:
    backends = ("torch-eager", "torch-compile", "tvm-optimized")
    spec = JobSpec(
        model="gpt-nano", mode="decode", seq_len=20, batch_size=2, repeats=20, backends=backends
    )
    record = run(spec, tmp_path, store)
    assert record.status == "ok"
    for row in record.results:
        latency = measured(row)
        assert len(latency.samples) == 20
        assert row.ttft_ms is not None and len(row.ttft_ms.samples) == 20
        assert row.tokens_per_s == pytest.approx(2 / latency.median * 1e3)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """bert-base itself is measured by hand and in the slow tests; here, one of its kind."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from bench import checkpoint

    directory = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, max_position_embeddings=32,
    )  # fmt: skip
    BertForMaskedLM(small).save_pretrained(directory)
    known = Weights.of("test", checkpoint.digest(directory), checkpoint.geometry(directory))
    return directory, known


def test_bert_is_encoded(tmp_path: Path, store: Store, tiny_bert: tuple[Path, Weights]) -> None:
    directory, known = tiny_bert
    spec = JobSpec(
        model="custom", mode="encode", seq_len=17, repeats=10, weights=known,
        backends=("torch-eager", "tvm-default", "tvm-optimized"),
    )  # fmt: skip
    record = run(spec, tmp_path / "out", store, weights=directory)
    assert record.status == "ok", record.reason
    assert [len(measured(row).samples) for row in record.results] == [10, 10, 10]
    assert record.spec.weights == known


def test_weights_from_a_checkpoint_are_measured(tmp_path: Path, store: Store) -> None:
    from bench import checkpoint

    config = GPTConfig(n_layer=2, n_head=3, n_embd=33, block_size=19, vocab_size=101)
    weights.save_gpt(gpt.build(config, 3), tmp_path / "mine")
    known = Weights.of("mine", checkpoint.digest(tmp_path / "mine"), config)
    spec = JobSpec(
        model="custom", seq_len=19, repeats=10, weights=known,
        backends=("torch-eager", "tvm-optimized"),
    )  # fmt: skip
    record = run(spec, tmp_path / "out", store, weights=tmp_path / "mine")
    assert [len(measured(row).samples) for row in record.results] == [10, 10]


@pytest.mark.parametrize("mode", ["prefill", "decode", "encode"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_are_measured_where_a_backend_has_them(
    dtype: str, mode: str, tmp_path: Path, store: Store, tiny_bert: tuple[Path, Weights]
) -> None:
    directory, known = tiny_bert
    encoding = mode == "encode"
    spec = JobSpec(
        model="custom" if encoding else "gpt-nano", mode=mode, seq_len=9, repeats=10, dtype=dtype,
        weights=known if encoding else None, backends=("torch-eager", "tvm-optimized"),
    )  # fmt: skip
    record = run(spec, tmp_path / "out", store, **({"weights": directory} if encoding else {}))
    assert record.status == "ok", record.reason
    eager, tvm = record.results
    measured(eager)
    assert eager.parity is not None and (eager.parity.max_rel_err or 0) > 1e-4
    assert tvm.status == "skipped" and "float32 only" in (tvm.reason or "")


def test_a_type_that_no_named_backend_has_is_refused(tmp_path: Path, store: Store) -> None:
    spec = JobSpec(model="gpt-nano", seq_len=9, dtype="bfloat16", backends=("tvm-optimized",))
    with pytest.raises(UsageFault, match="float32 only"):
        run(spec, tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results directory with one training run in it."""
    folder = tmp_path_factory.mktemp("trained")
    draw = random.Random(1)
    (folder / "verse.txt").write_text("\n".join(draw.choice(VERSE) for _ in range(400)))
    done = invoke(
        "train", "--engine", "local", "--preset", "char-tiny", "--text", str(folder / "verse.txt"),
        "--out", str(folder / "results"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "validation loss" in done.stdout
    return folder


def test_what_was_trained_continues_text_alike_on_pytorch_and_tvm(trained: Path) -> None:
    texts = []
    for backend in ("torch-eager", "tvm-optimized"):
        done = invoke(
            "generate", "last", "--engine", "local", "--backend", backend, "--prompt", "the ",
            "--tokens", "500", "--temperature", "0", "--out", str(trained / "results"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "a second" in done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[1]
    assert texts[0].startswith("the ") and len(texts[0]) == len("the ") + 500 + 1


def test_its_perplexity_is_the_same_on_pytorch_and_tvm(trained: Path) -> None:
    out = trained / "results"
    # The text is found again by what the run says of it, or named.
    done = invoke("evaluate", "last", "--engine", "local", "--out", str(out),
                  "--text", str(trained / "verse.txt"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    newest = max((p for p in out.iterdir() if "evaluate" in p.name), key=lambda p: p.name)
    found = json.loads((newest / "record.json").read_text())["evaluations"]
    assert [one["backend"] for one in found] == ["torch-eager", "tvm-optimized"]
    perplexities = [one["perplexity"] for one in found]
    assert f"{perplexities[0]:.4g}" == f"{perplexities[1]:.4g}"  # as a person reads it
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-5)
    assert 1 < perplexities[0] < 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "nothing-like-it"], "nothing-like-it"),
        (["generate", "last", "--prompt", "~"], "'~'"),
        (["generate", "last", "--prompt", ""], "the prompt is empty"),
        (["generate", "last", "--tokens", "0"], "--tokens '0'"),
        (["generate", "last", "--backend", "mxnet"], "unknown backend 'mxnet'"),
        (["evaluate", "last", "--text", "/no/such/file"], "/no/such/file"),
        (["bench", "--weights", "last", "--model", "gpt2"], "--model gpt2"),
        (["bench", "--weights", "last", "--seq-len", "33"], "over the block size"),
        (["bench", "--model", "bert-base", "--mode", "decode"], "decode is not for bert-base"),
        (["bench", "--model", "gpt2", "--mode", "decode", "--seq-len", "1024"], "no room"),
    ],
)
def test_bad_input_exits_2_and_leaves_nothing(
    trained: Path, arguments: list[str], said: str
) -> None:
    out = trained / "results"
    before = sorted(out.iterdir())
    done = invoke(*arguments, "--engine", "local", "--out", str(out))
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr and "hint: " in done.stderr and "Traceback" not in done.stderr
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "{}"],
        ["evaluate", "{}"],
        ["bench", "--weights", "{}"],
        ["train", "--init", "{}"],
    ],
)
def test_a_bigram_is_refused_by_what_compiles(
    trained: Path, tmp_path: Path, arguments: list[str]
) -> None:
    from bench.job import bigram

    kept = tmp_path / "kept"
    kept.mkdir()
    bigram.save(bigram.build(5, seed=1), kept)
    text = ["--text", str(trained / "verse.txt")] if arguments[0] in ("evaluate", "train") else []
    out = tmp_path / "results"
    named = [one.format(kept) for one in arguments]
    done = invoke(*named, *text, "--engine", "local", "--out", str(out))
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join(done.stderr.split())  # lines are broken where the terminal ends
    assert "is a bigram, which has no attention to compile: it can be trained and resumed" in said
    assert "hint: " in said and "--resume RUN" in said and "Traceback" not in said
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(
    "name",
    ["weights.py", "tensors.py", "checkpoint.py", "quantise.py", "base.py", "gpt.py", "cached.py",
     "bert.py", "linear.py", "pipelines.py"],
)  # fmt: skip
def test_what_decides_code_and_weights_counts_among_the_sources(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artefact keeps parameters: another way to read them must not find the old ones."""
    before = build.sources_digest()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == name))
    assert build.sources_digest() != before
