"""ONNX Runtime on the CPU: the model exported to ONNX, every graph optimisation on."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.errors import UsageFault
from bench.job.backends.base import Compiled, Prepared, Program, Programs
from bench.job.backends.torch_eager import no_artefact
from bench.limits import available_cores
from bench.record import JobSpec


class OnnxReady:
    """Sessions whose inputs and outputs are bound: nothing is copied through numpy."""

    def __init__(self, runtime: Any, sessions: Mapping[str, Any]) -> None:
        self._runtime = runtime
        self._sessions = sessions
        self._names = {
            name: (
                [one.name for one in session.get_inputs()],
                [one.name for one in session.get_outputs()],
            )
            for name, session in sessions.items()
        }

    def stage(self, tensor: torch.Tensor) -> Any:
        # An OrtValue on the CPU shares the array's memory: the copy is made here.
        own = tensor.clone(memory_format=torch.contiguous_format).numpy()
        return self._runtime.OrtValue.ortvalue_from_numpy(own)

    def run(self, program: str, *staged: Any) -> tuple[Any, ...]:
        inputs, outputs = self._names[program]
        binding = self._sessions[program].io_binding()
        for name, value in zip(inputs, staged, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in outputs:  # its memory comes from the session's arena, and goes back there
            binding.bind_output(name, "cpu")
        self._sessions[program].run_with_iobinding(binding)
        return tuple(binding.get_outputs())

    def view(self, value: Any) -> torch.Tensor:
        return torch.utils.dlpack.from_dlpack(value)

    def synchronize(self) -> None:
        """Nothing to wait for: a call on the CPU returns when it is done."""


class OnnxRuntime:
    slow_by_nature = False
    # Its CPU kernels of 16 bits are few: around the others it casts to float32 and back, and what
    # was measured would be the casts. The package for GPUs is another one, onnxruntime-gpu.
    dtypes: Mapping[str, tuple[str, ...]] = {"cpu": ("float32",)}

    def prepare(self, spec: JobSpec, programs: Programs) -> Prepared:
        runtime = _runtime()
        threads = spec.threads or available_cores()
        begin = time.perf_counter()
        sessions = {name: _session(runtime, one, threads) for name, one in programs.items()}
        return Prepared(
            OnnxReady(runtime, sessions),
            compile_s=time.perf_counter() - begin,
            compile_cached=False,
            target={
                "kind": "cpu",
                "provider": "CPUExecutionProvider",
                "graph_optimization": "ORT_ENABLE_ALL",
                "onnxruntime": str(runtime.__version__),
            },
        )

    def compile_only(self, spec: JobSpec, programs: Programs) -> Compiled:
        raise no_artefact("onnxruntime")


def _runtime() -> Any:
    try:
        import onnx
        import onnxruntime  # type: ignore[import-untyped]
        import onnxscript
    except ImportError as error:
        raise UsageFault(
            f"onnxruntime cannot be used here: {error}",
            hint="`make setup` installs it; an older image is built again by `invoke build-image`",
        ) from error
    del onnx, onnxscript  # what torch.onnx needs, and asks for only in the middle of its work
    return onnxruntime


def _session(runtime: Any, program: Program, threads: int) -> Any:
    """A session for ``program``, its weights read in before the exported file goes."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads  # they spin while they wait, which is its default
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program.module, program.example, dynamo=True, optimize=True, verbose=False
            )
        assert exported is not None
        # A protobuf holds 2 GiB at most, and gpt2-xl has 6: the weights lie beside it.
        exported.save(path, external_data=True)
        del exported
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the exporter's remarks: on torchvision, its own deprecations, and its progress."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


ONNXRUNTIME = OnnxRuntime()
