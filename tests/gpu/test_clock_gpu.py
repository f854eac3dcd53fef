"""CUDA events beside the host's clock, on a GPU. See ``tests/unit/test_clock.py`` for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.record import JobSpec

pytestmark = pytest.mark.gpu


@pytest.mark.usefixtures("cuda_torch")
@pytest.mark.parametrize("mode", ["prefill", "decode"])
@pytest.mark.parametrize("backend", ["torch-eager", "torch-compile", "tvm-optimized"])
def test_the_device_sees_the_calls_that_the_host_waits_for(
    backend: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.catalog import STORE_VARIABLE
    from bench.job import models, reference, worker

    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    spec = JobSpec(
        model="gpt-nano", mode=mode, seq_len=16, device="cuda", repeats=20, backends=(backend,)
    )
    reference.write(spec, models.build(spec), tmp_path)
    result = worker.run_step(backend, spec, tmp_path).result
    assert result is not None and result.status == "ok", result
    taken = [result.latency_ms, result.ttft_ms] if mode == "decode" else [result.latency_ms]
    for latency in taken:
        assert latency is not None and latency.clock == "host and CUDA events"
        assert latency.device_ms is not None and len(latency.device_ms) == len(latency.samples)
        assert min(latency.device_ms) > 0
