"""The whole way from a PyTorch module to a library that runs."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.errors import UsageFault
from bench.job import gpt
from bench.job.compile import api, build, pipelines, rewrite, target
from bench.job.compile.importer import import_module

TOLERANCE = 2e-5  # logits are of the order of 1


@pytest.fixture(scope="module")
def cpu() -> target.CompileTarget:
    return target.detect_cpu()


def run(
    model: torch.nn.Module,
    tokens: torch.Tensor,
    pipeline: str,
    cpu: target.CompileTarget,
    tmp_path: Path,
) -> build.Loaded:
    compiled = build.compile_module(model, (tokens,), pipeline, cpu)
    compiled.export_library(tmp_path / "model.so")
    assert compiled.compile_s > 0
    return build.load(tmp_path / "model.so", build.Parameters(compiled.params, "cpu"))


def reference(model: gpt.GPT, tokens: torch.Tensor) -> np.ndarray:
    wide = gpt.GPT(model.config).double()
    wide.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits: np.ndarray = wide(tokens).numpy()
    return logits


@pytest.mark.parametrize(
    ("pipeline", "batch_size", "seq_len"),
    [
        ("none", 1, 17),
        ("default", 1, 17),
        ("ladder-fused", 1, 5),
        ("ladder-dlight", 1, 5),
        ("ladder-kernels", 1, 17),
        ("ladder-packed", 2, 5),
        ("ladder-epilogues", 1, 17),
        ("optimized", 1, 1),
        ("optimized", 1, 17),
        ("optimized", 3, 5),
        ("optimized", 2, 64),
    ],
)
def test_logits_agree_with_float64_on_every_call(
    pipeline: str, batch_size: int, seq_len: int, cpu: target.CompileTarget, tmp_path: Path
) -> None:
    config = gpt.preset("gpt-nano")
    model = gpt.build(config, seed=1)
    example = gpt.tokens_for(config, batch_size, seq_len, seed=2)
    loaded = run(model, example, pipeline, cpu, tmp_path)
    for seed in (3, 4, 5):
        tokens = gpt.tokens_for(config, batch_size, seq_len, seed)
        logits = loaded(tokens.numpy())
        assert logits.shape == (batch_size, seq_len, config.vocab_size)
        assert np.abs(logits - reference(model, tokens)).max() < TOLERANCE


@pytest.mark.parametrize(
    ("name", "row"),
    [  # the last row of c_attn belongs to the values, which no softmax flattens
        ("wte.weight", 3),
        ("wpe.weight", 0),
        ("h.0.ln_1.bias", -1),
        ("h.0.attn.c_attn.weight", -1),
        ("h.0.attn.c_attn.bias", -1),
        ("h.0.mlp.c_proj.weight", -1),
        ("ln_f.weight", -1),
    ],
)
def test_a_changed_weight_changes_the_output(
    name: str, row: int, cpu: target.CompileTarget, tmp_path: Path
) -> None:
    config = gpt.GPTConfig(n_layer=1, n_head=2, n_embd=20, block_size=16, vocab_size=70)
    model = gpt.build(config, seed=1)
    tokens = torch.arange(7)[None]
    before = reference(model, tokens)
    with torch.no_grad():  # one element: a layer norm takes out what is added to a whole row
        weight = model.get_parameter(name)
        weight[(row, 0)[: weight.ndim]] += 0.5
    after = run(model, tokens, "optimized", cpu, tmp_path)(tokens.numpy())
    assert np.abs(after - reference(model, tokens)).max() < TOLERANCE
    assert np.abs(after - before).max() > 1e-4


class Unusual(torch.nn.Module):
    """Operators that no kernel of ours is for, in shapes that no vector divides."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(11, 7)
        self.mix = torch.nn.Linear(14, 5, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)  # (B, T, 7)
        spread = torch.cat([torch.sigmoid(x), x - x.mean(dim=1, keepdim=True)], dim=-1)
        y = self.mix(spread).cumsum(dim=1)  # (B, T, 5)
        grams = y.transpose(1, 2) @ y  # (B, 5, 5)
        out: torch.Tensor = torch.softmax(grams, dim=1) + torch.relu(y[:, -1:, :])
        return out


def test_operators_without_a_kernel_still_come_out_right(
    cpu: target.CompileTarget, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = Unusual().eval()
    tokens = torch.randint(11, (3, 9))
    got = run(model, tokens, "optimized", cpu, tmp_path)(tokens.numpy())
    with torch.no_grad():
        assert np.abs(got - model.double()(tokens).numpy()).max() < TOLERANCE


def test_the_tied_head_is_one_parameter() -> None:
    config = gpt.preset("gpt-nano")
    model = gpt.build(config, seed=1)
    imported = import_module(model, (gpt.tokens_for(config, 1, 3, seed=1),))
    assert sum(param.size for param in imported.params) == gpt.parameter_count(config)
    assert {param.dtype for param in imported.params} == {np.dtype(np.float32)}


def test_an_operator_that_tvm_cannot_import_is_named() -> None:
    class Exotic(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.amax(dim=0)

    with pytest.raises(UsageFault, match="amax"):
        import_module(Exotic(), (torch.randn(3, 4),))


def test_other_dtypes_are_refused() -> None:
    config = gpt.preset("gpt-nano")
    model = gpt.build(config, seed=1, dtype=torch.bfloat16)
    with pytest.raises(UsageFault, match="bfloat16"):
        import_module(model, (gpt.tokens_for(config, 1, 3, seed=1),))


def test_a_fresh_process_loads_and_runs_the_library(
    cpu: target.CompileTarget, tmp_path: Path
) -> None:
    config = gpt.preset("gpt-nano")
    model = gpt.build(config, seed=1)
    tokens = gpt.tokens_for(config, 1, 6, seed=2)
    compiled = build.compile_module(model, (tokens,), "optimized", cpu)
    compiled.export_library(tmp_path / "model.so")
    np.savez(tmp_path / "params.npz", *compiled.params)
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    program = """
import sys, numpy as np
from pathlib import Path
from bench.job.compile import build
folder = Path(sys.argv[1])
with np.load(folder / "params.npz") as file:
    params = [file[name] for name in file.files]
loaded = build.load(folder / "model.so", build.Parameters(params, "cpu"))
np.save(folder / "logits.npy", loaded(np.load(folder / "tokens.npy")))
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=root)
    logits = np.load(tmp_path / "logits.npy")
    assert np.abs(logits - reference(model, tokens)).max() < TOLERANCE


def test_loading_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"nowhere\.so"):
        build.load(tmp_path / "nowhere.so", build.Parameters([], "cpu"))


def test_the_pipelines_are_there_under_their_names() -> None:
    assert {"none", "default", "optimized"} <= set(pipelines.PIPELINES)
    for name, pipeline in pipelines.PIPELINES.items():
        assert pipeline.name == name
        assert pipeline.summary
        assert {*pipeline.cpu, *pipeline.gpu} <= {*pipelines.PASSES, pipelines.TUNED}
    with pytest.raises(UsageFault, match="fast") as caught:
        pipelines.pipeline("fast")
    assert caught.value.hint is not None
    assert "optimized" in caught.value.hint


def test_every_rung_of_the_ladder_is_a_backend_of_its_name() -> None:
    from bench.catalog import BACKENDS, LADDER, RUNGS, WEIGHT_ONLY
    from bench.job import backends
    from bench.job.backends.tvm import Tvm

    named = [f"tvm-{pipeline.name}" for pipeline in pipelines.LADDER]
    assert tuple(named) == LADDER
    loaded = [backends.load(name) for name in LADDER]
    assert [f"tvm-{one.pipeline}" for one in loaded if isinstance(one, Tvm)] == named
    assert not {*RUNGS, *WEIGHT_ONLY} & set(BACKENDS)


def test_a_rung_is_refused_on_a_gpu() -> None:
    gpu = target.CompileTarget("cuda", "x86-64", (), 1, "sm_90")
    with pytest.raises(UsageFault, match="ladder-packed"):
        pipelines.pipeline("ladder-packed").apply(None, gpu)


def test_sources_digest_follows_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.sources_digest()
    assert len(before) == 64
    assert before == build.sources_digest()
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "linear.py")
    )
    assert build.sources_digest() != before


def test_the_build_id_is_that_of_the_library_in_this_process() -> None:
    path = build.tvm_library_path()
    assert path.is_file()
    assert str(path) in Path("/proc/self/maps").read_text()
    version, _, identity = build.tvm_build_id().partition("+")
    assert version
    kind, _, value = identity.partition(".")
    assert kind in ("build-id", "sha256")
    if kind == "build-id":
        assert bytes.fromhex(value) in path.read_bytes()[: 1 << 20]


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("packing", [True, False])
def test_a_failure_while_compiling_leaves_collection_as_it_was(
    collecting: bool, packing: bool, cpu: target.CompileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        assert not gc.isenabled()
        raise RuntimeError("of this test")

    config = gpt.preset("gpt-nano")
    model, tokens = gpt.build(config, seed=1), gpt.tokens_for(config, 1, 3, seed=1)
    place = (rewrite, "pack_params") if packing else (api, "compile_lowered")
    monkeypatch.setattr(*place, fails)
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(RuntimeError, match="of this test"):
            build.compile_module(model, (tokens,), "optimized", cpu)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()
