"""The GPU's pipeline on a GPU: every rung is right, and so are CUDA graphs when they replay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.catalog import GPU_LADDER
from bench.host import runs
from bench.host.breakeven import COLD
from tests.conftest import ROOT

pytestmark = pytest.mark.gpu


@pytest.mark.usefixtures("cuda_torch")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_every_rung_is_right_on_the_gpu(mode: str, dtype: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "bench", "--gpu", "--engine", "local", "--ladder",
         "--model", "gpt-nano", "--mode", mode, "--seq-len", "300", "--dtype", dtype,
         "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = runs.listed(tmp_path)
    record = runs.read_record(path / runs.RECORD)
    assert [row.backend for row in record.results] == [*GPU_LADDER, COLD]
    for row in record.results:
        # The wheels have no cuBLAS: that one reason is let pass, for that one rung.
        if row.backend == "tvm-ladder-cublas" and row.status == "skipped":
            assert "built without cuBLAS" in (row.reason or "")
            continue
        assert row.status == "ok", row.reason
        assert row.parity is not None and row.parity.passed


@pytest.mark.usefixtures("cuda_torch")
def test_a_graph_replays_with_what_is_new_in_its_inputs() -> None:
    import torch

    from bench.job import gpt
    from bench.job.compile import build, target

    config = gpt.preset("gpt-nano")
    model = gpt.build(config, 1)
    major, minor = torch.cuda.get_device_capability()
    arch = target.cuda(f"sm_{major}{minor}")
    compiled = build.compile_module(model, (gpt.tokens_for(config, 1, 64, 1),), "optimized", arch)
    loaded = build.Loaded(compiled.executable, build.Parameters(compiled.params, "cuda"))
    # Called once, captured, then replayed: each time with other tokens, in other memory.
    for seed in range(5):
        tokens = gpt.tokens_for(config, 1, 64, seed)
        with torch.inference_mode():
            expected = model(tokens).numpy()
        assert np.abs(loaded(tokens.numpy()) - expected).max() < 1e-3, seed


@pytest.mark.usefixtures("cuda_torch")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_on_the_gpu(dtype: str) -> None:
    import torch

    from bench.job.compile import api, cudacc, target
    from bench.job.compile.schedules.gpu import attention

    b, t, h, d = 2, 70, 3, 64
    major, minor = torch.cuda.get_device_capability()
    arch = target.cuda(f"sm_{major}{minor}")
    kernel = attention.attention(b, t, h, d, scale=d**-0.5, causal=True, dtype=dtype)
    with cudacc.compiler_for(arch), arch.tvm():
        code = api.compile_kernel(kernel, arch.tvm())
    qkv = np.random.default_rng(0).standard_normal((b, t, 3, h, d)).astype(dtype)
    device = api.device("cuda")
    out = api.tensor(np.full((b, t, h, d), np.nan, dtype), device)
    code(api.tensor(qkv, device), out)
    device.sync()
    q, k, v = qkv.astype(np.float64).transpose(2, 0, 3, 1, 4)
    scores = np.where(np.tril(np.ones((t, t), bool)), q @ k.swapaxes(-1, -2) * d**-0.5, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    expected = (powers / powers.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)
    assert np.abs(out.numpy() - expected).max() < {"float32": 1e-5, "float16": 4e-3}[dtype]
